-- Lets in only the headers that a service reads, gives every error of a REST call OpenAI's shape, and every gRPC error
-- the HTTP status 200. It stands before the filters for grpc-web, authorization and transcoding, so that its request
-- half runs before theirs, and its response half after them, where it sees what the client would get.

local LARGEST_ERROR_BODY = 65536
local UNKNOWN, RESOURCE_EXHAUSTED, UNAVAILABLE = "2", "8", "14"
local RETRY_AFTER_S = "1"
-- What a service says of a refusal in trailers, and REST callers read in headers.
local LIFTED = {
  "retry-after", "x-should-retry", "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests",
  "x-ratelimit-reset-requests", "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
}

-- Everything else stops here. gRPC refuses calls with much metadata, or with a malformed `-bin` header, and a browser
-- sends the cookies of everything else on localhost.
local PASSED_ON = {
  authorization = true, ["x-api-key"] = true, ["content-type"] = true, ["content-length"] = true, ["user-agent"] = true,
  ["transfer-encoding"] = true, connection = true, te = true, host = true, expect = true, accept = true, origin = true,
  ["x-grpc-web"] = true, ["x-user-agent"] = true, ["x-request-id"] = true, traceparent = true, tracestate = true,
  ["grpc-timeout"] = true, ["grpc-encoding"] = true, ["grpc-accept-encoding"] = true,
  -- Set by Envoy itself: it finds no route without the one, and ends the other with the address it saw.
  ["x-forwarded-proto"] = true, ["x-forwarded-for"] = true,
}
-- Which replica an operator means; the engine's methods alone are let in to say so.
local REPLICA, ENGINE = "redoma-replica", "/redoma.model.v1.EngineService/"
-- They stop at the tenant service.
local CREDENTIALS = { authorization = true, ["x-api-key"] = true }
local LONGEST_HEADER, LONGEST_PATH = 512, 2048
-- An API key, or what is left of one; the part that may be shown is caught.
local KEY = "(rdm_%w?%w?%w?%w?%w?%w?%w?%w?)[%w_-]*"
local GRPC_TIMEOUT = "^%d%d?%d?%d?%d?%d?%d?%d?[HMSmun]$"

local TYPES = {
  [400] = "invalid_request_error", [401] = "invalid_request_error", [403] = "permission_error",
  [404] = "invalid_request_error", [405] = "invalid_request_error", [408] = "invalid_request_error",
  [413] = "invalid_request_error", [414] = "invalid_request_error",
  [429] = "rate_limit_error",
}
-- What stands where no service gave a reason: the edge itself refused the request.
local CODES = {
  [401] = "invalid_api_key", [404] = "unknown_url", [405] = "method_not_allowed", [408] = "deadline_exceeded",
  [413] = "request_too_large", [414] = "url_too_long", [429] = "rate_limited", [503] = "unavailable",
  [504] = "deadline_exceeded",
}
local MESSAGES = {
  [404] = "There is nothing at this URL. "
    .. "What there is: /v1/chat/completions, /v1/embeddings, /v1/models, /ask, /healthz, /readyz, and gRPC.",
  [405] = "This URL does not take this method; the header allow names the one it takes.",
  [408] = "The request took too long.",
  [413] = "@too_large_message@",
  [414] = "The URL is too long.",
  [503] = "@unreachable_message@",
  [504] = "The service did not answer in time.",
}
-- OpenAI's clients test for these codes.
local OPENAI_CODES = {
  PROMPT_TOO_LONG = "context_length_exceeded", CREDENTIAL_INVALID = "invalid_api_key", MODEL_NOT_FOUND = "model_not_found",
}

local function percent_decode(text)
  return (string.gsub(text, "%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

-- Gives a JSON string literal. Bytes that are not ASCII are kept: the text is UTF-8 already.
local function quote(text)
  local escaped = string.gsub(text, '[%c"\\\127]', function(char)
    return string.format("\\u%04x", string.byte(char))
  end)
  return '"' .. escaped .. '"'
end

-- Gives the value of the first string member of that name in a JSON text, still escaped, with its quotes.
local function json_string(text, name)
  local _, start = string.find(text, '"' .. name .. '"%s*:%s*"')
  if not start then return nil end
  local at = start + 1
  while at <= #text do
    local char = string.sub(text, at, at)
    if char == "\\" then
      at = at + 2
    elseif char == '"' then
      return string.sub(text, start, at)
    else
      at = at + 1
    end
  end
  return nil
end

local function unquote(literal)
  return literal and string.sub(literal, 2, -2)
end

local function openai_error(status, text)
  local is_json = string.find(text, "^%s*{")
  local message = is_json and json_string(text, "message")
  if not message then
    local plain = not is_json and not string.find(text, "^%s*<") and string.match(text, "^%s*(.-)%s*$") or ""
    message = quote(MESSAGES[status] or (plain ~= "" and plain) or ("The request failed with HTTP status " .. status .. "."))
  end
  local reason = is_json and unquote(json_string(text, "reason"))
  local code = reason and (OPENAI_CODES[reason] or string.lower(reason)) or CODES[status]
  return '{"error":{"message":' .. message .. ',"type":"' .. (TYPES[status] or "server_error") .. '","param":null,"code":'
    .. (code and quote(code) or "null") .. "}}"
end

local function is_passed_on(name, value, grpc, engine)
  if string.sub(name, 1, 1) == ":" or CREDENTIALS[name] then return true end
  if name == REPLICA then return engine and #value <= LONGEST_HEADER end
  if not PASSED_ON[name] or #value > LONGEST_HEADER then return false end
  return grpc or name ~= "grpc-timeout" or string.find(value, GRPC_TIMEOUT) ~= nil
end

-- What is logged of a request: no query, and no key that a client put where none belongs.
local function note_harmless(handle, headers)
  local path = string.gsub(string.match(headers:get(":path"), "^[^?]*"), KEY, "%1...")
  handle:streamInfo():dynamicMetadata():set("redoma", "path", path)
  local id = headers:get("x-request-id")
  if id and string.find(id, "rdm_", 1, true) then headers:replace("x-request-id", (string.gsub(id, KEY, "key"))) end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  note_harmless(handle, headers)
  local grpc = string.find(headers:get("content-type") or "", "^application/grpc") ~= nil
  local engine = grpc and string.sub(headers:get(":path"), 1, #ENGINE) == ENGINE
  local stopped = {}
  for name, value in pairs(headers) do
    if not is_passed_on(name, value, grpc, engine) then stopped[#stopped + 1] = name end
  end
  for _, name in ipairs(stopped) do headers:remove(name) end
  if grpc then return end
  handle:streamInfo():dynamicMetadata():set("redoma", "rest", true)
  if #headers:get(":path") > LONGEST_PATH then
    handle:respond({ [":status"] = "414", ["content-type"] = "application/json" }, openai_error(414, ""))
  end
end

-- A refusal of a grpc-web call comes with its HTTP status, and its clients read no further than that.
local function finish_grpc(headers)
  headers:replace(":status", "200")
  if headers:get("grpc-status-details-bin") then return end
  local status = headers:get("grpc-status")
  -- Envoy has no gRPC status for a body past its limit.
  if status == UNKNOWN and headers:get("grpc-message") == "Payload Too Large" then
    headers:replace("grpc-status", RESOURCE_EXHAUSTED)
    headers:replace("grpc-message", MESSAGES[413])
    headers:replace("grpc-status-details-bin", "@too_large_details@")
  elseif status == UNAVAILABLE then
    headers:replace("grpc-message", MESSAGES[503])
    headers:replace("grpc-status-details-bin", "@unreachable_details@")
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local prepared = headers:get("redoma-openai-error")
  headers:remove("redoma-openai-error")
  local status = tonumber(headers:get(":status"))
  local redoma = handle:streamInfo():dynamicMetadata():get("redoma")
  local rest = redoma and redoma["rest"]
  if not rest and headers:get("grpc-status") then finish_grpc(headers) end
  if status < 400 or not rest then return end
  -- Before the body is asked for: later is too late for the edge's own answers.
  headers:replace("content-type", "application/json")
  if (status == 429 or status == 503) and not headers:get("retry-after") and not headers:get("x-should-retry") then
    headers:replace("retry-after", RETRY_AFTER_S)
  end
  local body = handle:body(true)
  local trailers = handle:trailers()
  if trailers then
    prepared = prepared or trailers:get("redoma-openai-error")
    trailers:remove("redoma-openai-error")
    -- What was got before the body is out of its scope by now.
    local late = handle:headers()
    for _, name in ipairs(LIFTED) do
      local value = trailers:get(name)
      if value then late:replace(name, value) end
    end
    -- Waiting does not help.
    if trailers:get("x-should-retry") and not trailers:get("retry-after") then late:remove("retry-after") end
  end
  local text = body:getBytes(0, math.min(body:length(), LARGEST_ERROR_BODY))
  if prepared then
    body:setBytes(percent_decode(prepared))
  elseif not string.find(text, '^%s*{%s*"error"%s*:%s*{') then
    body:setBytes(openai_error(status, text))
  end
end
