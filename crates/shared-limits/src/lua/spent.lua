-- What was taken of budgets: for each 1 and the amount, or 0 and 0 if it is not known here.
--
-- KEYS: one for each budget.

local spent = {}
for i, key in ipairs(KEYS) do
  local used = redis.call('GET', key)
  spent[2 * i - 1], spent[2 * i] = used and 1 or 0, used or '0'
end
return spent
