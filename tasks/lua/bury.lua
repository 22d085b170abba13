-- 3 time-to-live (s): out of the way with a record that no script can work with. What there is of it
-- is kept beside, under names that nobody reads.
local id = ARGV[2]
local record = redis.pcall('HMGET', key('job', id), 'queue', 'user', 'state')
local queue, user, state = record[1], record[2], record[3]   -- none where it is no hash
-- Each step for itself, and whatever comes of the others: any part of the record may be the broken one.
pcall(release, id)
for _, name in ipairs({'leases', 'delayed', 'expiring', 'untold'}) do
  redis.pcall('ZREM', PREFIX .. name, id)
end
for _, one in ipairs(STATES) do
  redis.pcall('ZREM', key('state', one), id)
  if user and user ~= '' then redis.pcall('ZREM', of_user(one, user), id) end
end
pcall(wait_no_more, queue, id)
for _, one in ipairs(redis.pcall('SMEMBERS', PREFIX .. 'queues')) do pcall(wait_no_more, one, id) end
if user and user ~= '' and redis.pcall('ZREM', key('user', user), id) == 1 and not TERMINAL[state] then
  pcall(leave_user, user, ARGV[3])
end
for _, kind in ipairs({'job', 'history', 'tail'}) do
  if redis.call('EXISTS', key(kind, id)) == 1 then
    local kept = PREFIX .. 'broken:' .. kind .. ':' .. id
    redis.call('RENAME', key(kind, id), kept)
    redis.call('EXPIRE', kept, ARGV[3])
  end
end
end_nonces(id)
return 1
