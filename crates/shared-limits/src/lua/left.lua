
-- How long until each limit is all fresh, as seconds and nanoseconds. Takes nothing and writes nothing.
--
-- KEYS: one for each limit. ARGV: for each the time of a full burst.

local stored = redis.call('MGET', unpack(KEYS))
local busy = {}
for i = 1, #KEYS do
  local burst_s, burst_ns = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local s, ns = read(stored[i])
  s, ns = subtract(s, ns, now_s, now_ns)
  if is_after(s, ns, burst_s, burst_ns) then
    s, ns = burst_s, burst_ns
  end
  busy[2 * i - 1], busy[2 * i] = s, ns
end
return busy
