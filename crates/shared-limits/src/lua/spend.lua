-- Corrects what was taken of budgets. One whose count is lost begins again with what the next request tells of it.
--
-- KEYS: one for each budget. ARGV: for each what to add, what to subtract, and for how many milliseconds its count lives.

for i, key in ipairs(KEYS) do
  local used = redis.call('GET', key)
  if used then
    local by = tonumber(ARGV[3 * i - 2]) - tonumber(ARGV[3 * i - 1])
    count_as(key, tonumber(used) + by, ARGV[3 * i])
  end
end
return { now_s, now_ns }
