-- Corrects what was taken of budgets. One whose count is lost begins again with what the next request tells of it.
--
-- What was taken before the count began is not given back: the count may have begun without it.
--
-- KEYS: for each budget its count, and the epoch in which that was begun. ARGV: for each what to add, what to subtract, for how many
-- milliseconds its count lives, and the epoch in which it was taken.

for i = 1, #KEYS / 2 do
  local key = KEYS[2 * i - 1]
  local used = redis.call('GET', key)
  local by = tonumber(ARGV[4 * i - 3]) - tonumber(ARGV[4 * i - 2])
  if used and (by > 0 or redis.call('GET', KEYS[2 * i]) == ARGV[4 * i]) then
    count_as(key, tonumber(used) + by, ARGV[4 * i - 1])
  end
end
return { now_s, now_ns }
