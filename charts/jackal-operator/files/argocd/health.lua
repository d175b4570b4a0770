-- The health of a JackalPackage or a JackalImage for Argo CD.
local health = {}

local function condition(kind)
  if obj.status ~= nil and obj.status.conditions ~= nil then
    for _, found in ipairs(obj.status.conditions) do
      if found.type == kind then
        return found
      end
    end
  end
  return nil
end

if obj.metadata.deletionTimestamp ~= nil then
  health.status = "Progressing"
  health.message = "it is being deleted"
  return health
end

-- What the status says of an older spec says nothing of this one.
if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  health.status = "Progressing"
  health.message = "waiting for the operator to look at it"
  return health
end

local ready = condition("Ready")
if ready == nil then
  health.status = "Progressing"
  health.message = "waiting for the operator to say whether it is ready"
  return health
end
health.message = ready.message

-- Also when an earlier look found it ready: nobody looks any more.
if obj.spec.suspend == true then
  health.status = "Suspended"
elseif ready.status == "True" then
  health.status = "Healthy"
elseif ready.status == "False" then
  -- Stalled, or tried again by itself: either way somebody has to see why.
  health.status = "Degraded"
else
  health.status = "Progressing"
end
return health
