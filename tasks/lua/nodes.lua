-- 2… names of nodes. Returns the time (s, µs), and of each: when it was heard of (ms), its cordon,
-- its record, who has its slots (slot, job, …). One answer is a page: as long as the names are many.
local found = {clock}
for index = 2, #ARGV do
  local name = ARGV[index]
  found[index] = {
    redis.call('ZSCORE', PREFIX .. 'nodes', name),
    redis.call('HGET', PREFIX .. 'cordoned', name),
    redis.call('HGET', key('node', name), 'record'),
    redis.call('HGETALL', key('holds', name)),
  }
end
return found
