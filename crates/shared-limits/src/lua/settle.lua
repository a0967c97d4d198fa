-- Corrects what earlier requests have taken: gives back what was not used, but not beyond all fresh, or takes what was used
-- beyond that.
--
-- Time since which it has been recovering is not given back: the limit has recovered by that much on its own, and had others
-- taken it meanwhile, they would get it twice.
--
-- KEYS: one for each limit. ARGV: for each the time from which the part to give back recovers, the time to give back, and the
-- time to take.

for i, key in ipairs(KEYS) do
  local arg = function(n)
    return tonumber(ARGV[6 * i - 6 + n])
  end
  local passed_s, passed_ns = subtract(now_s, now_ns, arg(1), arg(2))
  local back_s, back_ns = subtract(arg(3), arg(4), passed_s, passed_ns)
  local s, ns = read(redis.call('GET', key))
  if arg(5) + arg(6) > 0 then
    if is_after(now_s, now_ns, s, ns) then
      s, ns = now_s, now_ns
    end
    s, ns = add(s, ns, arg(5), arg(6))
    keep(key, s, ns)
  elseif is_after(s, ns, now_s, now_ns) and back_s + back_ns > 0 then
    s, ns = subtract(s, ns, back_s, back_ns)
    if is_after(s, ns, now_s, now_ns) then
      keep(key, s, ns)
    else
      redis.call('DEL', key)
    end
  end
end
return { now_s, now_ns }
