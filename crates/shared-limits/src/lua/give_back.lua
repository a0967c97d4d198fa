
-- Gives back what an earlier request has taken, but not beyond all fresh.
--
-- Time that has passed since is not given back: the limit has recovered by that much on its own, and had others taken
-- meanwhile, they would get it twice.
--
-- KEYS: one for each limit. ARGV: when it was taken; then for each limit the time to give back.

local passed_s, passed_ns = subtract(now_s, now_ns, tonumber(ARGV[1]), tonumber(ARGV[2]))
for i, key in ipairs(KEYS) do
  local back_s, back_ns = subtract(tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2]), passed_s, passed_ns)
  local s, ns = read(redis.call('GET', key))
  if is_after(s, ns, now_s, now_ns) and back_s + back_ns > 0 then
    s, ns = subtract(s, ns, back_s, back_ns)
    if is_after(s, ns, now_s, now_ns) then
      keep(key, s, ns)
    else
      redis.call('DEL', key)
    end
  end
end
return { now_s, now_ns }
