
-- Takes from all limits, or from none.
--
-- KEYS: one for each rate, then one for each budget. ARGV: for each rate the time that the request uses up, and that of a full
-- burst; for each budget what may be spent, what the request takes, what has been spent if this server does not know it, and
-- for how many milliseconds its count lives (0: for ever); in the end the number of budgets.
--
-- The count of a budget is what was taken of it. Doubles are exact up to 2^53, so a larger budget keeps a little back.
--
-- Returns {0, now, and for each limit the time from which what was taken recovers} or, of the limits that are used up, the one with the longest wait: {its number from 1, the wait,
-- the time until it is all fresh}. One of which more is asked than a full burst comes first: no wait is long enough. Of a budget: {its number, what is left}.

local stored = redis.call('MGET', unpack(KEYS))
local taken, cut = {}, {}
local admitted = { 0, now_s, now_ns }
local is_hopeless = false
local refused, retry_s, retry_ns, reset_s, reset_ns = 0, 0, 0, 0, 0

local budgets = tonumber(ARGV[4 * #KEYS + 1])
local rates = #KEYS - budgets
for i = 1, rates do
  local key = KEYS[i]
  local cost_s, cost_ns = tonumber(ARGV[4 * i - 3]), tonumber(ARGV[4 * i - 2])
  local burst_s, burst_ns = tonumber(ARGV[4 * i - 1]), tonumber(ARGV[4 * i])
  local most_s, most_ns = add(now_s, now_ns, burst_s, burst_ns)
  local s, ns
  if taken[key] then
    -- The same limit twice in one request.
    s, ns = taken[key][1], taken[key][2]
  else
    s, ns = read(stored[i])
    if is_after(s, ns, most_s, most_ns) then
      -- The limit has become more generous, or the clock was set back: the debt is cut to a burst that is used up.
      s, ns = most_s, most_ns
      cut[key] = { s, ns }
    end
    if is_after(now_s, now_ns, s, ns) then
      s, ns = now_s, now_ns
    end
  end
  admitted[2 * i + 2], admitted[2 * i + 3] = s, ns
  local next_s, next_ns = add(s, ns, cost_s, cost_ns)
  if is_after(next_s, next_ns, most_s, most_ns) then
    local wait_s, wait_ns = subtract(next_s, next_ns, most_s, most_ns)
    local never = is_after(cost_s, cost_ns, burst_s, burst_ns)
    -- Of equals the first is the more telling.
    if (never and not is_hopeless) or (never == is_hopeless and is_after(wait_s, wait_ns, retry_s, retry_ns)) then
      is_hopeless = never
      refused, retry_s, retry_ns = i, wait_s, wait_ns
      reset_s, reset_ns = subtract(s, ns, now_s, now_ns)
    end
  elseif cost_s + cost_ns > 0 then
    taken[key] = { next_s, next_ns }
  end
end

-- Also when refused: otherwise a cut debt would not shrink with time.
for key, at in pairs(cut) do
  keep(key, at[1], at[2])
end
local spent, overspent, left = {}, 0, 0
for j = 1, budgets do
  local i = rates + j
  local key = KEYS[i]
  local allowed, cost = tonumber(ARGV[4 * i - 3]), tonumber(ARGV[4 * i - 2])
  local used = spent[key] and spent[key][1] or tonumber(stored[i] or ARGV[4 * i - 1])
  local most = allowed
  if allowed >= 2 ^ 53 then
    most = allowed - allowed * 2 ^ -50
  end
  -- What takes nothing passes until more than all is spent, as it does where a Modelgate counts alone.
  if (cost > 0 and used + cost > most) or used > allowed then
    if overspent == 0 then
      overspent, left = i, math.max(0, allowed - used)
    end
  else
    spent[key] = { used + cost, ARGV[4 * i] }
  end
end
if overspent > 0 then
  return { overspent, string.format('%.0f', left) }
end
if refused > 0 then
  return { refused, retry_s, retry_ns, reset_s, reset_ns }
end
for key, at in pairs(taken) do
  keep(key, at[1], at[2])
end
for key, count in pairs(spent) do
  count_as(key, count[1], count[2])
end
return admitted
