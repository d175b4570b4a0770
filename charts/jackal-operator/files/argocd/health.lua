-- Health check of JackalPackages and JackalImages for Argo CD.
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
  health.message = "the object is being deleted"
  return health
end

-- The status of an older generation does not describe the present spec.
if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  health.status = "Progressing"
  health.message = "waiting for the operator to reconcile the object"
  return health
end

local ready = condition("Ready")
if ready == nil then
  health.status = "Progressing"
  health.message = "waiting for the operator to set the condition Ready"
  return health
end
health.message = ready.message

-- Even if the object is Ready: a suspended object is not checked.
if obj.spec.suspend == true then
  health.status = "Suspended"
elseif ready.status == "True" then
  health.status = "Healthy"
elseif ready.status == "False" then
  -- Stalled or being retried: both need attention.
  health.status = "Degraded"
else
  health.status = "Progressing"
end
return health
