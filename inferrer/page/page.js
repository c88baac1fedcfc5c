// Shows this server's API, or with ?model=NAME one model's. Nothing is asked of any other host.
const model = new URLSearchParams(location.search).get("model");
SwaggerUIBundle({
  url: model ? `v2/models/${encodeURIComponent(model)}/openapi.json` : "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null,
});
