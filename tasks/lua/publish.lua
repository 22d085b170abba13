-- 5 batch number (0: none), 6 state to go to or '', 7 states it may be gone to from (',a,b,'),
-- 8 how many snapshot arguments follow, then field, value, …, then events
local batch, fields = tonumber(ARGV[5]), tonumber(ARGV[8])
if batch > 0 and tonumber(redis.call('HGET', job, 'batch') or '0') >= batch then
  return tonumber(redis.call('HGET', job, 'seq'))   -- said before; its answer was lost
end
if ARGV[6] ~= '' and ARGV[6] ~= state then
  if not string.find(ARGV[7], ',' .. state .. ',', 1, true) then return 'STATE ' .. state end
  move(id, state, ARGV[6])
  if ARGV[6] == 'running' then redis.call('HSET', job, 'ran', 1) end
  if ARGV[6] == 'running' and state == 'starting' then
    redis.call('HSET', job, 'running', NOW)
    observe(node, 'start', math.max(0, NOW - tonumber(redis.call('HGET', job, 'started'))))
  end
end
if batch > 0 then redis.call('HSET', job, 'batch', batch) end
if fields > 0 then
  local snapshot = {}
  for i = 9, 8 + fields do snapshot[#snapshot + 1] = ARGV[i] end
  redis.call('HSET', job, unpack(snapshot))
end
local events = rest_of(9 + fields)
count(node, 'events', #events)
return emit(id, events, attempt, node, slot)
