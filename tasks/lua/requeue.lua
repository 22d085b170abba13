-- 5 reason, 6 message, 7 delay (ms), 8 counts as an attempt (1 or 0), 9 node to avoid or '',
-- 10 for how long (ms), 11 time-to-live (s), 12 the event if no attempt is left, 13 and following as
-- finish's 10 and following
-- said last: a step that fails is not taken for done
local function done(state)
  redis.call('HSET', job, 'ended_by', by)
  return state
end
account(id)
if tonumber(ARGV[13]) >= 0 then runs(tonumber(ARGV[13])) end
local counts = ARGV[8] == '1'
local events = rest_of(show(14) + 1)
count(node, 'events', #events)
if held[7] ~= '' then
  events[#events] = 's' .. cjson.encode({type = 'cancelled', message = held[7]})
  emit(id, events, attempt, node, slot)
  ended(id, node, 'end:cancelled:')
  conclude(id, state, 'cancelled', '', held[7], '', tonumber(ARGV[11]), TOLD_WITHIN)
  return done('cancelled')
end
if counts and attempt >= tonumber(redis.call('HGET', job, 'max_attempts')) then
  events[#events] = ARGV[12]
  emit(id, events, attempt, node, slot)
  ended(id, node, 'end:failed:' .. ARGV[5])
  conclude(id, state, 'failed', ARGV[5], ARGV[6], '', tonumber(ARGV[11]), TOLD_WITHIN)
  return done('failed')
end
emit(id, events, attempt, node, slot)
ended(id, node, (counts and 'retry:' or 'handed_back:') .. ARGV[5])
redis.call('HSET', job, 'reason', ARGV[5], 'error', ARGV[6])
if not counts then redis.call('HSET', job, 'attempt', attempt - 1) end
if ARGV[9] ~= '' then
  -- each time longer: a job that no node can run must not fill its history
  local times = redis.call('HINCRBY', job, 'handed:' .. ARGV[9], 1)
  local avoid = math.min(tonumber(ARGV[10]) * 2 ^ math.min(times - 1, 20), AVOID_MOST)
  redis.call('HSET', job, 'avoid:' .. ARGV[9], int(NOW + avoid), 'away:' .. ARGV[9], ARGV[5])
end
queue_again(id, state, tonumber(ARGV[7]), tonumber(ARGV[11]))
return done('queued')
