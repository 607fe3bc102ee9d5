-- Publishes one batch: gives it the next offsets, keeps it in the channel's history, and publishes the same bytes.
-- A batch that was published before, because its publisher never got the answer, changes nothing.
-- KEYS: meta hash, history stream. ARGV: pub/sub channel, publishing node, numbers of the batch's first and last message
-- (20 digits each, so that they compare as text: Lua's numbers are too short), how many, the batch without epoch and
-- offset, messages to keep, milliseconds to keep them after the last, the epoch to begin if there is none (8 bytes),
-- seconds since 1970.
local meta, stream = KEYS[1], KEYS[2]
local channel, node, first_number, last_number, count = ARGV[1], 'n:' .. ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local body, keep, ttl, new_epoch, now = ARGV[6], tonumber(ARGV[7]), ARGV[8], ARGV[9], tonumber(ARGV[10])

local heard = redis.call('HGET', meta, node)
if heard and string.sub(heard, 1, 20) >= last_number then
  return 0
end
if not heard and redis.call('HLEN', meta) > 256 then
  -- Nodes restart under new names: forget those that have said nothing here for as long as history lives.
  local fields = redis.call('HGETALL', meta)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'n:' and tonumber(string.sub(fields[i + 1], 22)) + ttl / 1000 < now then
      redis.call('HDEL', meta, fields[i])
    end
  end
end

local epoch = redis.call('HGET', meta, 'epoch')
if not epoch then
  epoch = new_epoch
  redis.call('HSET', meta, 'epoch', epoch)
end
local last = redis.call('HINCRBY', meta, 'offset', count)
redis.call('HSET', meta, node, last_number .. ' ' .. ARGV[10])

-- The envelope's magic, its epoch (field 1) and offset (field 2) as protobuf's fixed64, then all other fields.
local payload = '\236\1\9' .. epoch .. '\17' .. struct.pack('<I8', last - count + 1) .. body
redis.call('XADD', stream, last .. '-0', 'b', payload)
redis.call('XTRIM', stream, 'MINID', math.max(last - keep + 1, 0))
redis.call('PEXPIRE', stream, ttl)
redis.call('PEXPIRE', meta, ttl)
redis.call('PUBLISH', channel, payload)
return last
