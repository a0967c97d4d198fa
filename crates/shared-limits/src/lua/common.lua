-- What the scripts of shared limits have in common.
--
-- A time is two whole numbers, seconds and nanoseconds. Lua 5.1 has no integers, only doubles, and these are exact up
-- to 2^53 = 9.0e15: nanoseconds since 1970 are 1.8e18. Microseconds would fit, but then each debit would have to be
-- rounded up to a whole one, and of a limit of 60 million tokens a second (17 ns each) little would be left.
--
-- Each key holds a theoretical arrival time, "<seconds> <nanoseconds>": when its limit will be all fresh again. No key
-- and one whose value is unknown are fresh.

local time = redis.call('TIME')
local now_s, now_ns = tonumber(time[1]), tonumber(time[2]) * 1000

local function add(s, ns, more_s, more_ns)
  s, ns = s + more_s, ns + more_ns
  if ns >= 1e9 then
    return s + 1, ns - 1e9
  end
  return s, ns
end

-- Zero where it would be negative.
local function subtract(s, ns, less_s, less_ns)
  s, ns = s - less_s, ns - less_ns
  if ns < 0 then
    s, ns = s - 1, ns + 1e9
  end
  if s < 0 then
    return 0, 0
  end
  return s, ns
end

local function is_after(s, ns, other_s, other_ns)
  return s > other_s or (s == other_s and ns > other_ns)
end

local function read(value)
  local s, ns
  if value then
    s, ns = string.match(value, '^(%d+) (%d+)$')
  end
  return tonumber(s or 0), tonumber(ns or 0)
end

-- Keeps an arrival time until it has passed. Two milliseconds more, because Redis rounds the present down to a whole
-- one, and so do we the rest.
local function keep(key, s, ns)
  local left_s, left_ns = subtract(s, ns, now_s, now_ns)
  local life = left_s * 1000 + math.floor(left_ns / 1e6) + 2
  redis.call('SET', key, string.format('%.0f %.0f', s, ns), 'PX', string.format('%.0f', life))
end

-- Keeps what was taken of a budget, for so many milliseconds (0: for ever).
local function count_as(key, used, life)
  local text = string.format('%.0f', math.max(0, used))
  if life == '0' then
    redis.call('SET', key, text)
  else
    redis.call('SET', key, text, 'PX', life)
  end
end

-- The epoch that is written as "<epoch> <seconds> <nanoseconds>", as text; nil if there is none. The time is that of the latest
-- announcement.
local function epoch_of(value)
  return value and string.match(value, '^(%d+) ') or nil
end
