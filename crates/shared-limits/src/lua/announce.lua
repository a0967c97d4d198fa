
-- Notes that a Modelgate is there. Returns how many are, the time, and the epoch.
--
-- A new epoch begins when the server has lost data: an announcement whose answer the Modelgate has heard is not there any more. Counts
-- of earlier epochs may be missing, or be those of an earlier time.
--
-- KEYS: the set of them, by when they were heard of last; the epoch's. ARGV: which one; for how many seconds it counts; the time of its
-- last announcement that was answered (0: none); the next epoch, if one begins.

redis.call('ZADD', KEYS[1], now_s, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_s - tonumber(ARGV[2]))
redis.call('EXPIRE', KEYS[1], tonumber(ARGV[2]) * 2)

local epoch, s, ns
local value = redis.call('GET', KEYS[2])
if value then
  epoch, s, ns = string.match(value, '^(%d+) (%d+) (%d+)$')
end
s, ns = tonumber(s or 0), tonumber(ns or 0)
if not epoch or is_after(tonumber(ARGV[3]), tonumber(ARGV[4]), s, ns) then
  epoch = ARGV[5]
end
-- A clock that was set back must not look like a loss.
if is_after(now_s, now_ns, s, ns) then
  s, ns = now_s, now_ns
end
redis.call('SET', KEYS[2], string.format('%s %.0f %.0f', epoch, s, ns))
return { redis.call('ZCARD', KEYS[1]), now_s, now_ns, s, ns, tonumber(epoch) }
