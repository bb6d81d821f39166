-- One operation on a store of sessions, atomically.
--
-- KEYS[1] is the prefix P of all keys, with a hash tag: they are in one slot. ARGV: operation, id ('': the global session),
-- and what is named below.
--
--   P:s:<id>     a session: c created, a last access, t TTL, and for each entry (a space, v or p, and a name) 'm'<entry>:
--                "version size", and 'd'<entry>: a digit for the kind, and the contents. Expires with the session.
--   P:global     the global session's entries, in the same form
--   P:deadlines  when each session expires (ms since 1970)
--   P:ids        their ids, to list them
--   P:sizes      "entries bytes" of each; '' is the global session. For what the server has let expire, too.
--   P:totals     values, bytes, expired
--   P:version    the last version

local P, op, id = KEYS[1], ARGV[1], ARGV[2]
local call = redis.call
local deadlines, ids, sizes, totals = P .. ':deadlines', P .. ':ids', P .. ':sizes', P .. ':totals'
local key = id == '' and P .. ':global' or P .. ':s:' .. id
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- Lua would write large numbers as 1e+15.
local function text(number) return string.format('%.0f', number) end

local function two(pair)
    local a, b = string.match(pair, '^(%d+) (%d+)$')
    return tonumber(a), tonumber(b)
end

local function grow(whose, entries, bytes)
    local e, b = two(call('HGET', sizes, whose) or '0 0')
    call('HSET', sizes, whose, text(e + entries) .. ' ' .. text(b + bytes))
    call('HINCRBY', totals, 'values', text(entries))
    call('HINCRBY', totals, 'bytes', text(bytes))
end

local function remove(whose)
    call('DEL', P .. ':s:' .. whose)
    local e, b = two(call('HGET', sizes, whose) or '0 0')
    call('HINCRBY', totals, 'values', text(0 - e))
    call('HINCRBY', totals, 'bytes', text(0 - b))
    call('HDEL', sizes, whose)
    call('ZREM', deadlines, whose)
    call('ZREM', ids, whose)
end

local function purge(most)
    local gone = call('ZRANGEBYSCORE', deadlines, '-inf', text(now), 'LIMIT', 0, most)
    for _, whose in ipairs(gone) do remove(whose) end
    if #gone > 0 then call('HINCRBY', totals, 'expired', #gone) end
    return #gone
end

local function lives()
    if id == '' then return true end
    local deadline = call('ZSCORE', deadlines, id)
    if not deadline then return false end
    if tonumber(deadline) > now and call('EXISTS', key) == 1 then return true end
    remove(id)
    call('HINCRBY', totals, 'expired', 1)
    return false
end

-- When the key expires from now on, if that has changed. Set last of all: the time may have passed since the script began,
-- and then the server deletes the key at once.
local expires

local function touch()
    if id == '' then return end
    expires = text(now + tonumber(call('HGET', key, 't')))
    call('HSET', key, 'a', text(now))
    call('ZADD', deadlines, expires, id)
end

local function access()
    local found = lives()
    if found then touch() end
    return found
end

local function start(ttl)
    call('HSET', key, 'c', text(now), 'a', text(now), 't', ttl)
    call('ZADD', ids, 0, id)
    call('HSET', sizes, id, '0 0')
    touch()
end

-- Whether there is no room, expired sessions not counted.
local function no_session(max)
    while call('ZCARD', deadlines) >= max do
        if purge(16) == 0 then return true end
    end
    return false
end

local function no_bytes(more, max)
    while more > 0 and tonumber(call('HGET', totals, 'bytes') or '0') + more > max do
        if purge(16) == 0 then return true end
    end
    return false
end

local function found_at(entry)
    local meta = call('HGET', key, 'm' .. entry)
    if not meta then return nil, 0 end
    local version, size = string.match(meta, '^(%d+) (%d+)$')
    return version, tonumber(size)
end

local function is_met(expected, version)
    if expected == '*' then return true end
    if expected == '-' then return version == nil end
    return version == expected
end

local function info()
    local e, b = two(call('HGET', sizes, id) or '0 0')
    local it = id == '' and { '0', text(now), '' } or call('HMGET', key, 'c', 'a', 't')
    return { 'info', it[1], it[2], it[3], text(e), text(b) }
end

local function perform()
    if op == 'get' then -- entry, known version or ''
        if not access() then return { 'missing' } end
        local version = found_at(ARGV[3])
        if not version then return { 'missing' } end
        if version == ARGV[4] then return { 'unchanged' } end
        return { 'value', version, call('HGET', key, 'd' .. ARGV[3]) }
    elseif op == 'put' then -- entry, expected, size, TTL, most sessions, most bytes, contents
        local entry, expected, size = ARGV[3], ARGV[4], tonumber(ARGV[5])
        local live = access()
        local version, old = nil, 0
        if live then version, old = found_at(entry) end
        if not is_met(expected, version) then return { 'conflict', version or '' } end
        if not live and no_session(tonumber(ARGV[7])) then return { 'full', 'max_sessions' } end
        if no_bytes(size - old, tonumber(ARGV[8])) then return { 'full', 'max_total_bytes' } end
        if not live then start(ARGV[6]) end
        -- At least the time, in µs: versions are not used again if the server loses everything, or is set back.
        local last = tonumber(call('GET', P .. ':version') or '0')
        local new = text(math.max(last + 1, tonumber(time[1]) * 1e6 + tonumber(time[2])))
        call('SET', P .. ':version', new)
        call('HSET', key, 'm' .. entry, new .. ' ' .. text(size), 'd' .. entry, ARGV[9])
        grow(id, version and 0 or 1, size - old)
        return { 'written', new }
    elseif op == 'delete' then -- entry, expected
        local version, old = nil, 0
        if access() then version, old = found_at(ARGV[3]) end
        if not is_met(ARGV[4], version) then return { 'conflict', version or '' } end
        if not version then return { 'deleted', '0' } end
        call('HDEL', key, 'm' .. ARGV[3], 'd' .. ARGV[3])
        grow(id, -1, 0 - old)
        return { 'deleted', '1' }
    elseif op == 'keys' then -- space
        local answer, wanted = { 'keys' }, 'm' .. ARGV[3]
        if access() then
            for _, field in ipairs(call('HKEYS', key)) do
                if string.sub(field, 1, 2) == wanted then table.insert(answer, string.sub(field, 3)) end
            end
        end
        return answer
    elseif op == 'info' then
        if not lives() then return { 'none' } end
        return info()
    elseif op == 'create' then -- TTL, most sessions
        if not access() then
            if no_session(tonumber(ARGV[4])) then return { 'full', 'max_sessions' } end
            start(ARGV[3])
        end
        return info()
    elseif op == 'touch' then
        return { 'done', access() and '1' or '0' }
    elseif op == 'expire' then
        if not lives() then return { 'done', '0' } end
        remove(id)
        return { 'done', '1' }
    elseif op == 'list' then -- prefix, first ('[' or '(' and an id, or '-'), most
        local answer, first, most = { 'ids' }, ARGV[4], tonumber(ARGV[5])
        while #answer - 1 < most do
            local page = call('ZRANGEBYLEX', ids, first, '+', 'LIMIT', 0, most)
            for _, whose in ipairs(page) do
                if string.sub(whose, 1, #ARGV[3]) ~= ARGV[3] or #answer - 1 >= most then return answer end
                local deadline = call('ZSCORE', deadlines, whose)
                if deadline and tonumber(deadline) > now then table.insert(answer, whose) end
            end
            if #page < most then return answer end
            first = '(' .. page[#page]
        end
        return answer
    elseif op == 'usage' then
        local it = call('HMGET', totals, 'values', 'bytes', 'expired')
        return { 'usage', text(call('ZCARD', deadlines)), it[1] or '0', it[2] or '0', it[3] or '0' }
    elseif op == 'purge' then -- most
        return { 'purged', text(purge(tonumber(ARGV[3]))) }
    end
    return redis.error_reply('ERR unknown operation')
end

local answer = perform()
if expires then call('PEXPIREAT', key, expires) end
return answer
