
-- Takes from all limits, or from none.
--
-- KEYS: one for each rate, then one for each budget; if there are budgets, then one for each of them that says in which epoch its
-- count was begun, and the epoch's. ARGV: the number of budgets; the time after which nobody waits for the answer (0: not known); the
-- epoch that the Modelgate knows. Then for each rate the time that the request uses up, and that of a full burst; for each budget what
-- may be spent, what the request takes, what has been spent as far as is known there, and for how many milliseconds its count lives
-- (0: for ever).
--
-- The count of a budget is what was taken of it. Doubles are exact up to 2^53, so a larger budget keeps a little back. One that was
-- begun in another epoch may be lost, or have been set back: then the larger of it and of what is known elsewhere counts.
--
-- Returns {0, now, and for each limit the time from which what was taken recovers} or, of the limits that are used up, the one with the longest wait: {its number from 1, the wait,
-- the time until it is all fresh}. One of which more is asked than a full burst comes first: no wait is long enough. Of a budget: {its number, what is left}.
-- Takes nothing and returns {0, now, 0} if it is too late, because the request was answered without this; {} in another epoch.

local late_s, late_ns = tonumber(ARGV[2]), tonumber(ARGV[3])
if late_s > 0 and is_after(now_s, now_ns, late_s, late_ns) then
  return { 0, now_s, now_ns, 0 }
end
local budgets = tonumber(ARGV[1])
local limits = #KEYS
if budgets > 0 then
  limits = #KEYS - budgets - 1
end
local rates = limits - budgets
local stored = redis.call('MGET', unpack(KEYS))
if budgets > 0 and epoch_of(stored[#KEYS]) ~= ARGV[4] then
  return {}
end
local taken, cut = {}, {}
local admitted = { 0, now_s, now_ns }
local is_hopeless = false
local refused, retry_s, retry_ns, reset_s, reset_ns = 0, 0, 0, 0, 0
for i = 1, rates do
  local key = KEYS[i]
  local cost_s, cost_ns = tonumber(ARGV[4 * i + 1]), tonumber(ARGV[4 * i + 2])
  local burst_s, burst_ns = tonumber(ARGV[4 * i + 3]), tonumber(ARGV[4 * i + 4])
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
  local allowed, cost = tonumber(ARGV[4 * i + 1]), tonumber(ARGV[4 * i + 2])
  local is_begun = stored[i] and stored[i + budgets] == ARGV[4]
  local used = spent[key] and spent[key][1] or tonumber(stored[i] or 0)
  if not is_begun and not spent[key] then
    used = math.max(used, tonumber(ARGV[4 * i + 3]))
  end
  local most = allowed
  if allowed >= 2 ^ 53 then
    most = allowed - allowed * 2 ^ -50
  end
  -- What takes nothing passes until more than all is spent, as it does where a Modelgate counts alone.
  if (cost > 0 and used + cost > most) or used > allowed then
    if overspent == 0 then
      overspent, left = i, math.max(0, allowed - used)
    end
  elseif cost > 0 or is_begun then
    -- What takes nothing begins no count: it may come before all that was spent is known again.
    spent[key] = { used + cost, ARGV[4 * i + 4], KEYS[i + budgets] }
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
  count_as(count[3], ARGV[4], count[2])
end
return admitted
