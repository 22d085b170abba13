-- 2 state, 3 where to go on, 4 time-to-live once terminal (s): some of the jobs in the state, into
-- the indexes by user. Those of versions that know no such index are not in them, or in a wrong one.
-- Returns where to go on; '0' at the end.
local state = ARGV[2]
local found = redis.call('ZSCAN', key('state', state), ARGV[3], 'COUNT', 200)
for i = 1, #found[2], 2 do
  local id, since = found[2][i], found[2][i + 1]
  local user = redis.pcall('HGET', key('job', id), 'user')
  if type(user) == 'string' and user ~= '' then
    local index = of_user(state, user)
    local new = redis.call('ZADD', index, since, id) == 1
    for _, other in ipairs(STATES) do
      -- also where it was known here: it may have been somewhere else in between, by another version
      if other ~= state then redis.call('ZREM', of_user(other, user), id) end
    end
    if new and TERMINAL[state] then redis.call('EXPIRE', index, ARGV[4]) end
  end
end
return found[1]
