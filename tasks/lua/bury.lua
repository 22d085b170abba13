-- 3 time-to-live (s): out of the way with a record that no script can work with. What there is of it
-- is kept beside, under names that nobody reads.
local id = ARGV[2]
local queue = redis.pcall('HGET', key('job', id), 'queue')
local user = redis.pcall('HGET', key('job', id), 'user')
for _, name in ipairs({'leases', 'delayed', 'expiring', 'untold'}) do
  redis.pcall('ZREM', PREFIX .. name, id)
end
for _, state in ipairs(STATES) do
  redis.pcall('ZREM', key('state', state), id)
  if type(user) == 'string' then redis.pcall('ZREM', of_user(state, user), id) end
end
if type(queue) == 'string' then redis.pcall('ZREM', key('waiting', queue), id) end
for _, kind in ipairs({'job', 'history', 'tail'}) do
  if redis.call('EXISTS', key(kind, id)) == 1 then
    local kept = PREFIX .. 'broken:' .. kind .. ':' .. id
    redis.call('RENAME', key(kind, id), kept)
    redis.call('EXPIRE', kept, ARGV[3])
  end
end
return 1
