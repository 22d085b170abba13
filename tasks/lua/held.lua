-- Prepended to what only the holder of a lease may do: 3 owner, 4 fence.
local id = ARGV[2]
local job = key('job', id)
local held = redis.call('HMGET', job, 'owner', 'fence', 'state', 'attempt', 'node', 'slot', 'cancel')
if held[1] ~= ARGV[3] or held[2] ~= ARGV[4] or not RUNS[held[3]] then return 'LOST' end
local state, attempt, node, slot = held[3], tonumber(held[4]), held[5], held[6]
