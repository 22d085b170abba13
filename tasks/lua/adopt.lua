-- 3 new owner, 4 fence, 5 ttl, 6… owners that it may be taken over from: an attempt goes on under a
-- new supervisor, and nothing that an earlier one says counts any more.
local id, owner = ARGV[2], ARGV[3]
local job = key('job', id)
local h = redis.call('HMGET', job, 'owner', 'fence', 'state', 'attempt', 'batch', 'reading',
  'progress', 'message')
local known = h[1] == owner
for i = 6, #ARGV do known = known or h[1] == ARGV[i] end
if not known or h[2] ~= ARGV[4] or not RUNS[h[3] or ''] then return 'LOST' end
if h[1] ~= owner then redis.call('HINCRBY', job, 'adoptions', 1) end
redis.call('HSET', job, 'owner', owner, 'exp', NOW + tonumber(ARGV[5]))
redis.call('ZADD', PREFIX .. 'leases', NOW + tonumber(ARGV[5]), id)
return {'OK', h[3], tonumber(h[4]), tonumber(h[5] or '0'), h[6] or '', h[7] or '',
  (h[8] or '') ~= '' and 1 or 0, tonumber(redis.call('HGET', job, 'adoptions') or '0')}
