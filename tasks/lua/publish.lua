-- 5 batch number (0: none), 6 state to go to or '', 7 states it may be gone to from (',a,b,'),
-- 8 how many snapshot arguments follow, then field, value, …, then events
local batch = tonumber(ARGV[5])
if batch > 0 and tonumber(redis.call('HGET', job, 'batch') or '0') >= batch then
  return tonumber(redis.call('HGET', job, 'seq'))   -- said before; its answer was lost
end
if ARGV[6] ~= '' and ARGV[6] ~= state then
  if not string.find(ARGV[7], ',' .. state .. ',', 1, true) then return 'STATE ' .. state end
  move(id, state, ARGV[6])
  if ARGV[6] == 'running' then runs(0) end
end
if batch > 0 then redis.call('HSET', job, 'batch', batch) end
local events = rest_of(show(8) + 1)
count(node, 'events', #events)
return emit(id, events, attempt, node, slot)
