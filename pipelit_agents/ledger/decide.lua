-- Decides one attempt to verify a peer: limits, charge and spend in one step.
--
-- KEYS  1 the peer
--       2 verifier and peer
--       3 owner and peer
--       each: unlocks, failures in a row, the end of its lock, the step spent last, the moment at
--       which spent steps may have been forgotten, the run_id of the server that knew that, and
--       the moments of the failures of the last minute; separated by spaces
-- ARGV  1 separated by spaces:
--         the moment, Unix seconds; "-" for this server's clock
--         kind: plain codes are spent by the peer, audience codes by the pair
--         the first and the last step that was tried
--         what SQL knows: unlocks of the peer, failures in a row about it, and the step that the
--         spender spent last
--         what tells this call from others
--         the steps in which the code is right, ascending
--       2 failures_per_minute, lock_after, lock_seconds, owner_lock_after, switch_off_after,
--         window, period, seconds that a key is kept; separated by spaces
--       3 why no code is accepted whatever it says; empty where one may be
-- Returns what tells this call from others, verdict, the moment, the step, seconds to wait ("-":
-- none) and the reason, separated by spaces.

local moment, kind, first, last, unlocks, sql_in_a_row, sql_spent, call, steps =
  string.match(ARGV[1], '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) ?(.*)$')
local per_minute, lock_after, lock_seconds, owner_lock_after, switch_off_after, window, period, keep =
  string.match(ARGV[2], '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
local unfit = ARGV[3]

local now = tonumber(moment)
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
unlocks, sql_in_a_row, sql_spent = tonumber(unlocks), tonumber(sql_in_a_row), tonumber(sql_spent)
per_minute, lock_after, lock_seconds = tonumber(per_minute), tonumber(lock_after), tonumber(lock_seconds)
owner_lock_after, switch_off_after = tonumber(owner_lock_after), tonumber(switch_off_after)
window, period = tonumber(window), tonumber(period)

-- Lua would print a large number with fourteen digits, or in powers of ten; so each says its form.
local function answer(verdict, reason, step, wait)
  wait = wait and string.format('%.6f', wait) or '-'
  return string.format('%s %s %.6f %d %s %s', call, verdict, now, step or 0, wait, reason)
end

local present = math.floor(now / period)
local from, to = math.max(0, present - window), present + window
if from < tonumber(first) or to > tonumber(last) then
  -- The caller's clock is off by more than it allowed for; it asks again by this one.
  return answer('clock', '')
end

-- A comparison with what is no number is false, whatever it is compared with.
local function number(text)
  local found = tonumber(text)
  return found == found and found
end

local kept, rows = {}, {}
for place = 1, 3 do
  local row = {unlocks = -1, in_a_row = 0, locked_until = 0, spent = -1, changed = -period, run = '-', recent = ''}
  local text = redis.pcall('GET', KEYS[place])
  if type(text) == 'table' and not string.find(text.err, 'WRONGTYPE', 1, true) then
    -- Of the server's, not of the key's: what it counted is there, and nobody is to delete it.
    return text
  end
  if text then
    local fields = type(text) == 'string' and
      {string.match(text, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) ?(.*)$')} or {}
    row.unlocks, row.in_a_row = number(fields[1]), number(fields[2])
    row.locked_until, row.spent, row.changed = number(fields[3]), number(fields[4]), number(fields[5])
    row.run, row.recent = fields[6], fields[7]
    if not (row.unlocks and row.in_a_row and row.locked_until and row.spent and row.changed) then
      return redis.error_reply('ERR the counters under ' .. KEYS[place] .. ' are damaged: delete that key')
    end
  end
  -- Counters from before the last unlock are forgotten; what was spent stays spent. An attempt that
  -- knows less of unlocks than these keys do changes nothing about that.
  if row.unlocks < unlocks then
    row.unlocks, row.in_a_row = unlocks, place == 1 and sql_in_a_row or 0
    row.recent, row.locked_until = '', 0
  end
  kept[place], rows[place] = text, row
end
local peer, pair, owner = rows[1], rows[2], rows[3]

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
    spender.changed = now
  end
end

local function finish(...)
  for place, row in ipairs(rows) do
    local text = string.format('%d %d %.6f %d %.6f %s %s', row.unlocks, row.in_a_row, row.locked_until,
      row.spent, row.changed, row.run, row.recent)
    if text ~= kept[place] then
      redis.call('SET', KEYS[place], text, 'EX', keep)
    end
  end
  return answer(...)
end

if math.max(peer.in_a_row, sql_in_a_row) >= switch_off_after then
  return finish('locked', 'short codes switched off')
end
if pair.locked_until > now then
  return finish('locked', 'pair locked', 0, pair.locked_until - now)
end
if owner.locked_until > now then
  return finish('locked', 'owner locked', 0, owner.locked_until - now)
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
for each in string.gmatch(steps, '%S+') do
  local found = tonumber(each)
  if found >= from and found <= to then
    step = found
  end
end
local reason = unfit
if reason == '' then
  if step < 0 then
    reason = 'wrong code'
  elseif step <= math.max(spender.spent, sql_spent) then
    reason = 'replay'
  elseif step <= math.floor(spender.changed / period) + window then
    -- A code may be ahead of the clock by the window, so that much of the future may have been
    -- spent and forgotten too.
    reason = 'step from before a restart'
  end
end
if reason == '' then
  peer.in_a_row, pair.in_a_row, owner.in_a_row, pair.recent = 0, 0, 0, ''
  spender.spent = step
  return finish('accepted', '', step)
end

recent[#recent + 1] = string.format('%.6f', now)
pair.recent = table.concat(recent, ' ')
for _, row in ipairs(rows) do
  row.in_a_row = row.in_a_row + 1
end
if pair.in_a_row >= lock_after then
  pair.in_a_row, pair.recent, pair.locked_until = 0, '', now + lock_seconds
end
if owner.in_a_row >= owner_lock_after then
  owner.in_a_row, owner.locked_until = 0, now + lock_seconds
end
return finish('rejected', reason)
