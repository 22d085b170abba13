-- 5 terminal state, 6 reason, 7 message, 8 result, 9 time-to-live (s), then events
redis.call('HSET', job, 'ended_by', by)
account(id)
ended(id, node, 'end:' .. ARGV[5] .. ':' .. ARGV[6])
emit(id, rest_of(10), attempt, node, slot)
conclude(id, state, ARGV[5], ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9]),
  TOLD_WITHIN)
return 'OK'
