-- 2 grace (ms), or -1: leave the leases alone, 3 time-to-live (s): expired leases, due delays, jobs
-- not started in time. At most 100 of each. Returns how many of each were dealt with, and the
-- jobs whose records are broken: one of those must not be in the way of all others.
local grace, keep = tonumber(ARGV[2]), tonumber(ARGV[3])
local function due(name, until_ms)
  return redis.call('ZRANGEBYSCORE', PREFIX .. name, '-inf', until_ms, 'LIMIT', 0, 100)
end
local lost, pushed, expired, broken = 0, 0, 0, {}
local function each(name, until_ms, deal)
  for _, id in ipairs(due(name, until_ms)) do
    local fine, why = pcall(deal, id)
    if not fine then
      local text = type(why) == 'table' and why.err or tostring(why)
      if OF_THE_SERVER[string.match(text, '^%-?(%u+)')] then error(why) end
      redis.call('ZREM', PREFIX .. name, id)
      broken[#broken + 1] = id
    end
  end
end
if grace >= 0 then each('leases', NOW - grace, function(id)
  local job = key('job', id)
  local h = redis.call('HMGET', job, 'state', 'attempt', 'max_attempts', 'cancel', 'node', 'slot')
  if h[1] and RUNS[h[1]] then
    local attempt, node, slot = tonumber(h[2]), h[5], h[6]
    local message = 'node ' .. node .. ' did not renew its lease'
    lost = lost + 1
    count(node, 'lost', 1)
    if h[4] ~= '' then
      emit(id, {'s' .. cjson.encode({type = 'cancelled', message = h[4]})}, attempt, node, slot)
      conclude(id, h[1], 'cancelled', '', h[4], '', keep, 0)
    elseif attempt >= tonumber(h[3]) then
      emit(id, {'s' .. cjson.encode({type = 'failed', reason = 'node_lost', message = message})},
        attempt, node, slot)
      conclude(id, h[1], 'failed', 'node_lost', message, '', keep, 0)
    else
      emit(id, {'s' .. cjson.encode({type = 'retrying', reason = 'node_lost', message = message,
        delay_seconds = 0})}, attempt, node, slot)
      redis.call('HSET', job, 'reason', 'node_lost', 'error', message)
      queue_again(id, h[1], 0, keep)
    end
  else
    redis.call('ZREM', PREFIX .. 'leases', id)
  end
end) end
each('delayed', NOW, function(id)
  if redis.call('HGET', key('job', id), 'state') == 'queued' then
    if push_or_fail(id, keep) then pushed = pushed + 1 end
  else
    redis.call('ZREM', PREFIX .. 'delayed', id)
  end
end)
each('expiring', NOW, function(id)
  local h = redis.call('HMGET', key('job', id), 'state', 'ran', 'attempt')
  if h[1] == 'queued' and not h[2] then
    local message = 'not started before its expiry'
    emit(id, {'s' .. cjson.encode({type = 'failed', reason = 'timeout', message = message})},
      tonumber(h[3]), '', '')
    conclude(id, 'queued', 'failed', 'timeout', message, '', keep, 0)
    expired = expired + 1
  end
  redis.call('ZREM', PREFIX .. 'expiring', id)
end)
return {lost, pushed, expired, broken}
