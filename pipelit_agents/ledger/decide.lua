-- Decides one attempt to verify a peer: limits, charge and spend in one step.
--
-- KEYS  1 the peer            hash: unlocks, in_a_row, spent, run, changed
--       2 verifier and peer   hash: unlocks, in_a_row, spent, run, changed, recent, locked_until
--       3 owner and peer      hash: unlocks, in_a_row, locked_until
-- ARGV  1 the moment, Unix seconds; empty for this server's clock
--       2 kind: plain codes are spent by the peer, audience codes by the pair
--       3 why no code is accepted whatever it says; empty where one may be
--       4 the steps in which the code is right, ascending, separated by spaces
--       5, 6 the first and the last step that was tried
--       7, 8, 9 what SQL knows: unlocks of the peer, failures in a row about it, and the step
--          that the spender spent last
--       10 .. 17 failures_per_minute, lock_after, lock_seconds, owner_lock_after,
--          switch_off_after, window, period, seconds that a key is kept
--       18 what tells this call from others
-- Returns verdict, reason, the moment, the step, seconds to wait (empty: none), and ARGV 18.

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local kind, unfit = ARGV[2], ARGV[3]
local first, last = tonumber(ARGV[5]), tonumber(ARGV[6])
local unlocks, sql_in_a_row, sql_spent = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local per_minute, lock_after, lock_seconds = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local owner_lock_after, switch_off_after = tonumber(ARGV[13]), tonumber(ARGV[14])
local window, period, keep = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17])

-- Lua would print a large number with fourteen digits, or in powers of ten.
local function precise(number)
  return string.format('%.6f', number)
end

local function whole(number)
  return string.format('%d', number)
end

local function answer(verdict, reason, step, wait)
  return {verdict, reason, precise(now), whole(step or 0), wait and precise(wait) or '', ARGV[18]}
end

local present = math.floor(now / period)
local from, to = math.max(0, present - window), present + window
if from < first or to > last then
  -- The caller's clock is off by more than it allowed for; it asks again by this one.
  return answer('clock', '')
end

local function read(key)
  local found, fields = {}, redis.call('HGETALL', key)
  for place = 1, #fields, 2 do
    found[fields[place]] = fields[place + 1]
  end
  return found
end

local function number(row, field, default)
  return tonumber(row[field]) or default
end

local function write(key, row)
  local fields = {}
  for field, value in pairs(row) do
    fields[#fields + 1] = field
    fields[#fields + 1] = value
  end
  redis.call('HSET', key, unpack(fields))
  redis.call('EXPIRE', key, keep)
end

local peer, pair, owner = read(KEYS[1]), read(KEYS[2]), read(KEYS[3])

-- Counters from before the last unlock are forgotten; what was spent stays spent. An attempt that
-- knows less of unlocks than these keys do changes nothing about that.
for _, row in ipairs({peer, pair, owner}) do
  if number(row, 'unlocks', -1) < unlocks then
    row.unlocks, row.in_a_row = whole(unlocks), row == peer and whole(sql_in_a_row) or '0'
    row.recent, row.locked_until = '', '0'
  end
end

-- A server that began anew, was restored or took over may have forgotten what was spent last. What
-- the last of it was, SQL knows as well: where that is no longer good, nothing that could be good
-- was forgotten. And what SQL has, it refuses by itself: this is for the day when SQL forgot too.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
if not run then
  return redis.error_reply('ERR the server does not tell its run_id')
end
local spender = kind == 'plain' and peer or pair
if spender.run ~= run then
  spender.run = run
  if sql_spent >= from then
    spender.changed = precise(now)
  end
end

local function finish(...)
  write(KEYS[1], peer)
  write(KEYS[2], pair)
  write(KEYS[3], owner)
  return answer(...)
end

if math.max(number(peer, 'in_a_row', 0), sql_in_a_row) >= switch_off_after then
  return finish('locked', 'short codes switched off')
end
for _, lock in ipairs({{pair, 'pair locked'}, {owner, 'owner locked'}}) do
  local ends = number(lock[1], 'locked_until', 0)
  if ends > now then
    return finish('locked', lock[2], 0, ends - now)
  end
end
local recent = {}
for at in string.gmatch(pair.recent, '%S+') do
  if tonumber(at) > now - 60 then
    recent[#recent + 1] = at
  end
end
if #recent >= per_minute then
  return finish('limited', 'rate limited', 0, recent[#recent - per_minute + 1] + 60 - now)
end

local step = -1
for each in string.gmatch(ARGV[4], '%S+') do
  local found = tonumber(each)
  if found >= from and found <= to then
    step = found
  end
end
local reason = unfit
if reason == '' then
  if step < 0 then
    reason = 'wrong code'
  elseif step <= math.max(number(spender, 'spent', -1), sql_spent) then
    reason = 'replay'
  elseif step <= math.floor(number(spender, 'changed', -period) / period) + window then
    -- A code may be ahead of the clock by the window, so that much of the future may have been
    -- spent and forgotten too.
    reason = 'step from before a restart'
  end
end
if reason == '' then
  peer.in_a_row, pair.in_a_row, owner.in_a_row, pair.recent = '0', '0', '0', ''
  spender.spent = whole(step)
  return finish('accepted', '', step)
end

recent[#recent + 1] = precise(now)
pair.recent = table.concat(recent, ' ')
for _, row in ipairs({peer, pair, owner}) do
  row.in_a_row = whole(number(row, 'in_a_row', 0) + 1)
end
if tonumber(pair.in_a_row) >= lock_after then
  pair.in_a_row, pair.recent, pair.locked_until = '0', '', precise(now + lock_seconds)
end
if tonumber(owner.in_a_row) >= owner_lock_after then
  owner.in_a_row, owner.locked_until = '0', precise(now + lock_seconds)
end
return finish('rejected', reason)
