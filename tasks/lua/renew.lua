-- 5 ttl
local ttl = tonumber(ARGV[5])
redis.call('HSET', job, 'exp', NOW + ttl)
redis.call('ZADD', PREFIX .. 'leases', NOW + ttl, id)
account(id)
count(node, 'renewals', 1)
return {'OK', held[7] or ''}
