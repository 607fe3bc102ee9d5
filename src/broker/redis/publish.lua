-- Publishes one batch: gives it the next offsets, keeps it in the channel's history, and publishes the same bytes.
-- A batch that was published before, because its publisher never got the answer, or whose key is in the history, changes
-- nothing. Returns the epoch, the offset of the batch's last message (0 if it is in the history, but who knows where), and
-- 1 if a batch of that number has been or will be published, 0 if its key shows that it repeats another one, 2 if its key
-- belongs to another message: then it is refused; 3 is 1, but somebody else had written to the channel's keys, so that its
-- history began anew.
-- KEYS: meta hash, history stream, set of keys. ARGV: pub/sub channel; publishing node; number of the batch's last
-- message, and of its predecessor in the same pipeline or '' (20 digits each, so that they compare as text: Lua's numbers
-- are too short); how many messages; the batch without epoch and offset; its key or ''; messages to keep; milliseconds to
-- keep them after the last, and what is known of them; the epoch to begin if there is none (8 bytes); seconds since 1970;
-- epoch and offset of the newest message that the publishing node knows of; PUBLISH or SPUBLISH; if that message is one of
-- its own, which nobody but it may have heard, the number of that, else ''; '1' if that is so new that it cannot have been
-- forgotten below; bytes to keep; the digest of the message that has the key (20 bytes), or ''.
-- A stream entry's id is the offset of its last message, then what all entries of this history up to it have cost, in bytes:
-- two ids tell what lies between them. 0 is an entry of an older version, which did not count.
local meta, stream, keys = KEYS[1], KEYS[2], KEYS[3]
local channel, node, last_number, previous = ARGV[1], 'n:' .. ARGV[2], ARGV[3], ARGV[4]
local count, body, key, keep = tonumber(ARGV[5]), ARGV[6], ARGV[7], tonumber(ARGV[8])
local ttl, meta_ttl, new_epoch, now = ARGV[9], ARGV[10], ARGV[11], tonumber(ARGV[12])
local seen_epoch, seen, held, lately = ARGV[13], tonumber(ARGV[14]), ARGV[16], ARGV[17] == '1'
local keep_bytes, digest = tonumber(ARGV[18]), ARGV[19]
-- What Redis needs beside the payload for an entry, and for a key: it is in the set twice, see below. Estimates, which
-- tests hold against what Redis 8 says it needs.
local ENTRY_COST, KEY_COST = 48, 320
-- Entries that are copied to be looked at, at once and in all: the rest goes with the next batches.
local LOOK, LOOKS = 64, 8

-- Nobody else writes these keys. Whoever does, with a restored backup or by hand, must not stop the channel: numbers that
-- cannot be are none. Those up to here are exact.
local HIGHEST = 999999999999999
local function number(text)
  return text and #text <= 15 and string.match(text, '^%d+$') and tonumber(text)
end

local known = redis.call('HMGET', meta, 'epoch', 'offset', node, 'bytes', 'floor')
local epoch, last, heard = known[1], number(known[2]), known[3]
local bytes = number(known[4]) or 0
local floor = math.min(number(known[5]) or 0, bytes)
local heard_number = heard and string.match(heard, '^(%d+) ') or ''
if #heard_number ~= 20 then
  heard_number = ''
end
if not epoch or #epoch ~= 8 or epoch == '\0\0\0\0\0\0\0\0' or not last or last + count > HIGHEST then
  epoch = false
end
local nonsense = not epoch and (known[1] or known[2])
-- Redis has lost what it had acknowledged, and given the same offsets to others. It is known already if somebody has gone
-- on behind it.
local outrun = held > heard_number and (heard or lately) and seen_epoch == epoch and seen <= last
  and seen > (number(redis.call('HGET', meta, 'jumped')) or 0)
local function begin_anew()
  epoch, last, bytes, floor = new_epoch, 0, 0, 0
  redis.call('HSET', meta, 'epoch', epoch, 'offset', '0', 'jumped', '0', 'bytes', '0', 'floor', '0')
  redis.call('DEL', stream, keys)
end
if not epoch or outrun then
  -- Nor can whatever is left of a history without its offsets be gone on with.
  begin_anew()
  if outrun then
    -- A listener that has received everything of this history that came may still have missed something.
    redis.call('HSET', meta, 'torn', '1')
  end
end

local kept = key ~= '' and redis.call('ZSCORE', keys, key)
if kept and not (number(kept) and number(kept) > last - keep and number(kept) <= last) then
  kept = false
end
-- Beside each key is the digest of its message, at the same offset; no key begins with a zero byte. A key that is alone was
-- kept by an older version, which tells nothing about its message.
local digest_member = '\0' .. digest .. key
local taken = kept and redis.call('ZSCORE', keys, digest_member) ~= kept and redis.call('ZCOUNT', keys, kept, kept) > 1
if heard_number >= last_number then
  -- Its offset is its name only in the epoch in which it was given. A message that was refused is remembered without one.
  local named = heard_number == last_number and string.find(heard, epoch, 1, true) and string.match(heard, '%d+$')
  if named then
    return {epoch, tonumber(named), key ~= '' and named == '0' and 2 or kept and 0 or 1}
  end
  return {epoch, tonumber(not taken and kept or 0), taken and 2 or kept and 0 or 1}
end
if previous > heard_number then
  return redis.error_reply('OUTOFORDER the batch before this one was not taken')
end
if kept then
  -- Either way those behind it in the pipeline are next.
  local offset = taken and '0' or kept
  redis.call('HSET', meta, node, last_number .. ' ' .. ARGV[12] .. ' ' .. epoch .. ' ' .. offset)
  return {epoch, tonumber(offset), taken and 2 or 0}
end
-- Before anything of it is written: what is refused is not kept either.
if redis.acl_check_cmd and not redis.acl_check_cmd(ARGV[15], channel, '') then
  return redis.error_reply('NOPERM No permissions to access a channel: ' .. channel)
end
local nodes = heard and 0 or redis.call('HLEN', meta)
if nodes > (number(redis.call('HGET', meta, 'many')) or 256) then
  -- Nodes restart under new names: forget those that have said nothing here for as long as history lives. Not again until
  -- there are twice as many as are left.
  local fields = redis.call('HGETALL', meta)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'n:' and (number(string.match(fields[i + 1], ' (%d+)')) or 0) + ttl / 1000 < now then
      nodes = nodes - redis.call('HDEL', meta, fields[i])
    end
  end
  redis.call('HSET', meta, 'many', math.max(2 * nodes, 256))
end

if seen_epoch == epoch and seen > last and seen + count <= HIGHEST then
  -- Redis has lost the end of what it had given out: no offset may be given twice, and who misses what had them is told.
  last = seen
  redis.call('HSET', meta, 'jumped', ARGV[14])
end
local id, total, payload
local function add_entry()
  last = last + count
  id = string.format('%.0f', last)
  -- The envelope's magic, its epoch (field 1) and offset (field 2) as protobuf's fixed64, then all other fields.
  payload = '\236\1\9' .. epoch .. '\17' .. struct.pack('<I8', last - count + 1) .. body
  bytes = bytes + #payload + ENTRY_COST
  if key ~= '' then
    bytes = bytes + KEY_COST + 2 * #key
  end
  total = string.format('%.0f', bytes)
  return redis.pcall('XADD', stream, id .. '-' .. total, 'b', payload)
end
local added = add_entry()
if type(added) == 'table' and (string.find(added.err, 'ID specified', 1, true) or string.find(added.err, 'exhausted', 1, true)) then
  -- An entry of somebody else is where ours should be.
  nonsense = true
  begin_anew()
  added = add_entry()
end
if type(added) == 'table' then
  return added
end
redis.call('HSET', meta, 'offset', id, 'bytes', total, node, last_number .. ' ' .. ARGV[12] .. ' ' .. epoch .. ' ' .. id)
local oldest = math.max(last - keep + 1, 0)
redis.call('XTRIM', stream, 'MINID', string.format('%.0f', oldest))

-- The floor is what was counted before the oldest entry, or less: the oldest entries are looked at only when that is too
-- far below. The newest entry always stays.
if bytes - floor > keep_bytes then
  local from, count, enough = '-', 1, false
  for _ = 1, LOOKS do
    local entries = redis.call('XRANGE', stream, from, '+', 'COUNT', count)
    for i = 1, #entries do
      local offset, upto = string.match(entries[i][1], '^(%d+)-(%d+)$')
      upto = number(upto) or 0
      if upto > 0 then
        floor = math.max(floor, upto - #entries[i][2][2] - ENTRY_COST)
      end
      -- Those of older versions count as nothing, and go with whatever is before or behind them.
      enough = offset == id or bytes - floor <= keep_bytes
      if enough then
        break
      end
      if upto > 0 then
        floor, oldest = math.max(floor, upto), math.max(oldest, tonumber(offset) + 1)
      elseif i == LOOK then
        oldest = math.max(oldest, tonumber(offset) + 1)
      end
      from = '(' .. entries[i][1]
    end
    if enough or #entries < count then
      break
    end
    count = math.min(2 * count, LOOK)
  end
  redis.call('XTRIM', stream, 'MINID', string.format('%.0f', oldest))
  redis.call('HSET', meta, 'floor', string.format('%.0f', floor))
end
if key ~= '' then
  redis.call('ZADD', keys, id, key, id, digest_member)
end
-- Also by messages without keys: keys live as long as the messages that have them, and no longer.
if redis.call('PEXPIRE', keys, ttl) == 1 then
  -- Here it is too late to fail because the key is somebody else's.
  redis.pcall('ZREMRANGEBYSCORE', keys, '-inf', '(' .. string.format('%.0f', oldest))
end
redis.call('PEXPIRE', stream, ttl)
redis.call('PEXPIRE', meta, meta_ttl)
redis.call(ARGV[15], channel, payload)
return {epoch, last, nonsense and 3 or 1}
