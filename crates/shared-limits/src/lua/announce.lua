
-- Notes that a Modelgate is there, and returns how many are.
--
-- KEYS: the set of them, by when they were heard of last. ARGV: which one; for how many seconds it counts.

redis.call('ZADD', KEYS[1], now_s, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_s - tonumber(ARGV[2]))
redis.call('EXPIRE', KEYS[1], tonumber(ARGV[2]) * 2)
return { redis.call('ZCARD', KEYS[1]) }
