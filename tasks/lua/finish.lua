-- 5 terminal state, 6 reason, 7 message, 8 result, 9 time-to-live (s), 10 since when it ran, where
-- nobody was told yet (ms ago, or -1), 11 to 14 Celery's result of a success, if it shall be stored here,
-- as in tell.lua, 15 how many snapshot arguments follow, then those, then events
account(id)
if tonumber(ARGV[10]) >= 0 then runs(tonumber(ARGV[10])) end
local first = show(15) + 1
ended(id, node, 'end:' .. ARGV[5] .. ':' .. ARGV[6])
local events = rest_of(first)
count(node, 'events', #events)
emit(id, events, attempt, node, slot)
conclude(id, state, ARGV[5], ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9]),
  TOLD_WITHIN)
-- what stands at Celery's key may be anything: the job has ended all the same, and is told of later
local stored = ARGV[11] ~= '' and pcall(tell, id, ARGV[11], ARGV[12], ARGV[13], ARGV[14])
redis.call('HSET', job, 'ended_by', by)   -- last: a step that fails is not taken for done
return stored and 'STORED' or 'OK'
