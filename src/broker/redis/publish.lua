-- Publishes one batch: gives it the next offsets, keeps it in the channel's history, and publishes the same bytes.
-- A batch that was published before, because its publisher never got the answer, or whose key is in the history, changes
-- nothing. Returns the epoch, the offset of the batch's last message (0 if it is in the history, but who knows where), and
-- whether a batch of that number has ever been or will be published.
-- KEYS: meta hash, history stream, set of keys. ARGV: pub/sub channel; publishing node; number of the batch's last
-- message, and of its predecessor in the same pipeline or '' (20 digits each, so that they compare as text: Lua's numbers
-- are too short); how many messages; the batch without epoch and offset; its key or ''; messages to keep; milliseconds to
-- keep them after the last, and what is known of them; the epoch to begin if there is none (8 bytes); seconds since 1970;
-- epoch and offset of the newest message that the publishing node knows of; PUBLISH or SPUBLISH; if that message is one of
-- its own, which nobody but it may have heard, the number of that, else ''; '1' if that is so new that it cannot have been
-- forgotten below.
local meta, stream, keys = KEYS[1], KEYS[2], KEYS[3]
local channel, node, last_number, previous = ARGV[1], 'n:' .. ARGV[2], ARGV[3], ARGV[4]
local count, body, key, keep = tonumber(ARGV[5]), ARGV[6], ARGV[7], tonumber(ARGV[8])
local ttl, meta_ttl, new_epoch, now = ARGV[9], ARGV[10], ARGV[11], tonumber(ARGV[12])
local seen_epoch, seen, held, lately = ARGV[13], tonumber(ARGV[14]), ARGV[16], ARGV[17] == '1'

local epoch = redis.call('HGET', meta, 'epoch')
local last = tonumber(redis.call('HGET', meta, 'offset') or 0)
local heard = redis.call('HGET', meta, node)
local heard_number = heard and string.sub(heard, 1, 20) or ''
-- Redis has lost what it had acknowledged, and given the same offsets to others. It is known already if somebody has gone
-- on behind it.
local outrun = held > heard_number and (heard or lately) and seen_epoch == epoch and seen <= last
  and seen > tonumber(redis.call('HGET', meta, 'jumped') or 0)
if not epoch or outrun then
  -- Nor can whatever is left of a history without its offsets be gone on with.
  epoch, last = new_epoch, 0
  redis.call('HSET', meta, 'epoch', epoch, 'offset', '0', 'jumped', '0')
  redis.call('DEL', stream, keys)
end

local kept = key ~= '' and redis.call('ZSCORE', keys, key)
if kept and tonumber(kept) <= last - keep then
  kept = false
end
if heard_number >= last_number then
  -- Its offset is its name only in the epoch in which it was given.
  local named = heard_number == last_number and string.find(heard, epoch, 1, true)
  local offset = kept or named and string.match(heard, '%d+$') or 0
  return {epoch, tonumber(offset), kept and 0 or 1}
end
if previous > heard_number then
  return redis.error_reply('OUTOFORDER the batch before this one was not taken')
end
if kept then
  redis.call('HSET', meta, node, last_number .. ' ' .. ARGV[12] .. ' ' .. epoch .. ' ' .. kept)
  return {epoch, tonumber(kept), 0}
end
local nodes = heard and 0 or redis.call('HLEN', meta)
if nodes > tonumber(redis.call('HGET', meta, 'many') or 256) then
  -- Nodes restart under new names: forget those that have said nothing here for as long as history lives. Not again until
  -- there are twice as many as are left.
  local fields = redis.call('HGETALL', meta)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'n:' and tonumber(string.match(fields[i + 1], ' (%d+)')) + ttl / 1000 < now then
      nodes = nodes - redis.call('HDEL', meta, fields[i])
    end
  end
  redis.call('HSET', meta, 'many', math.max(2 * nodes, 256))
end

if seen_epoch == epoch and seen > last then
  -- Redis has lost the end of what it had given out: no offset may be given twice, and who misses what had them is told.
  last = seen
  redis.call('HSET', meta, 'jumped', ARGV[14])
end
last = last + count
local id = string.format('%.0f', last)

-- The envelope's magic, its epoch (field 1) and offset (field 2) as protobuf's fixed64, then all other fields.
local payload = '\236\1\9' .. epoch .. '\17' .. struct.pack('<I8', last - count + 1) .. body
redis.call('XADD', stream, id .. '-0', 'b', payload)
redis.call('HSET', meta, 'offset', id, node, last_number .. ' ' .. ARGV[12] .. ' ' .. epoch .. ' ' .. id)
redis.call('XTRIM', stream, 'MINID', string.format('%.0f', math.max(last - keep + 1, 0)))
if key ~= '' then
  redis.call('ZADD', keys, id, key)
  redis.call('ZREMRANGEBYSCORE', keys, '-inf', last - keep)
end
-- Also by messages without keys: keys live as long as the messages that have them.
redis.call('PEXPIRE', keys, ttl)
redis.call('PEXPIRE', stream, ttl)
redis.call('PEXPIRE', meta, meta_ttl)
redis.call(ARGV[15], channel, payload)
return {epoch, last, 1}
