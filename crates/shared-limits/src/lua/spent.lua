-- What was taken of budgets: for each 1 and the amount, or 0 and 0 if it is not known here.
--
-- KEYS: the epoch's; for each budget its count, and the epoch in which that was begun.

local epoch = epoch_of(redis.call('GET', KEYS[1]))
local spent = {}
for i = 1, (#KEYS - 1) / 2 do
  local used = redis.call('GET', KEYS[2 * i])
  local is_known = used and redis.call('GET', KEYS[2 * i + 1]) == epoch
  spent[2 * i - 1], spent[2 * i] = is_known and 1 or 0, is_known and used or '0'
end
return spent
