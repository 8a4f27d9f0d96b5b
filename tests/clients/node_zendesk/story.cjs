// A sync by node-zendesk. It knows no custom objects, so their paths go through the methods of its resources:
// here those of its job statuses, which hand a body back as it came.
//
// Pointed at the service:
//
//     createClient({endpointUri: "http://127.0.0.1:8080/api/v2", username: "admin@example.com", token: "…"})

"use strict";

const { createClient } = require("node-zendesk");

const options = {
  endpointUri: `${process.env.SERVICE_URL}/api/v2`,
  username: process.env.SERVICE_EMAIL,
  token: process.env.SERVICE_TOKEN,
};
const api = createClient(options).jobstatuses;
// throws what the service said, where the plain client throws a text of its own
const frank = createClient({ ...options, throwOriginalException: true }).jobstatuses;

const CARS = ["custom_objects", "node_car"];
const records = (...more) => [...CARS, "records", ...more];
const wrapped = (record) => ({ custom_object_record: record });

async function step(name, doIt) {
  const reported = { step: name };
  try {
    reported.saw = await doIt();
  } catch (error) {
    reported.raised = error.constructor.name;
    reported.text = error.message;
    reported.statusCode = error.statusCode;
    reported.body = error.result;
  }
  console.log(JSON.stringify(reported));
  return reported.saw;
}

// Every method resolves to {response, result}; a 204 to an error of the client's own that says so.
const seen = ({ response, result }) => ({
  status: response.status,
  result: response.headers.get("upsert-result"),
  body: result instanceof Error ? result.message : result,
});

async function job(action, items) {
  const { result } = await api.post([...CARS, "jobs"], { job: { action, items } });
  return result.job_status;
}

async function story() {
  await step("users me", async () => seen(await createClient(options).users.me()));

  const car = { custom_object: { key: "node_car", title: "Car", title_pluralized: "Cars" } };
  await step("create object", async () => seen(await api.post(["custom_objects"], car)));
  for (const field of [
    { key: "color", type: "text", title: "Color" },
    { key: "year", type: "integer", title: "Year" },
  ]) {
    await step(`create ${field.type} field`, async () =>
      seen(await api.post([...CARS, "fields"], { custom_object_field: field })));
  }
  await step("make names unique", async () =>
    seen(await api.patch([...CARS, "fields", "standard::name"], {
      custom_object_field: { properties: { is_unique: true } },
    })));
  await step("reorder fields", async () => {
    const { result } = await api.get([...CARS, "fields"]);
    const ids = result.custom_object_fields.map(({ id }) => String(id)).reverse();
    const { response } = await api.put([...CARS, "fields", "reorder"], { custom_object_field_ids: ids });
    const after = await api.get([...CARS, "fields"]);
    return [response.status, after.result.custom_object_fields.map(({ key }) => key)];
  });

  const ford = wrapped({ name: "Ford", custom_object_fields: { color: "red", year: 2026 } });
  const first = await step("upsert by external_id", async () =>
    seen(await api.patch(records({ external_id: "v 1&2" }), ford)));
  await step("upsert by external_id again", async () =>
    seen(await api.patch(records({ external_id: "v 1&2" }), ford)));
  await step("upsert by name", async () =>
    seen(await api.patch(records({ name: "Opel" }), wrapped({ custom_object_fields: { year: 1990 } }))));
  await step("upsert by name again", async () =>
    seen(await api.patch(records({ name: "OPEL" }), wrapped({ custom_object_fields: { color: "grey" } }))));

  const { id } = first.body.custom_object_record;
  const blue = wrapped({ custom_object_fields: { color: "blue" } });
  await step("patch", async () => seen(await api.patch(records(id), blue)));
  await step("put", async () => seen(await api.put(records(id), blue)));
  await step("show", async () => seen(await api.get(records(id))));
  for (const name of ["Audi", "Fiat", "Seat"]) await api.post(records(), wrapped({ name }));
  const names = (page) => page.custom_object_records.map((record) => record.name);
  await step("list in pages", async () => (await api.getAll(records({ page: { size: 2 } }))).map(names));
  await step("count", async () => seen(await api.get(records("count"))));
  await step("filter", async () =>
    seen(await api.post(records("search"), { filter: { "custom_object_fields.year": { $eq: 1990 } } })));
  await step("autocomplete", async () => names((await api.get(records("autocomplete", { name: "FI" }))).result));
  await step("search by words", async () => (await api.getAll(records("search", { query: "fia opel", page: { size: 1 } }))).map(names));

  await step("missing record", () => api.get(records("01ARZ3NDEKTSV4RRFFQ69G5FAV")));
  await step("missing record, frankly", () => frank.get(records("01ARZ3NDEKTSV4RRFFQ69G5FAV")));
  await step("taken name, frankly", () => frank.post(records(), wrapped({ name: "FORD" })));
  await step("no identifier, frankly", () => frank.patch(records(), ford));

  const queued = await step("create job", () => job("create", [{ name: "Job 1" }, { name: "Job 2" }]));
  await step("job completed", () => api.watch(queued.id, 50, 5));
  await step("job with a taken name", async () => {
    const { id } = await job("create_or_update_by_external_id", [
      { external_id: "v 1&2", name: "Ford" },
      { external_id: "j-2", name: "Job 1" },
    ]);
    return api.watch(id, 50, 5);
  });
  await step("job by id", async () =>
    (await api.showMany([queued.id])).result.job_statuses.some(({ id }) => id === queued.id));
  await step("job listed", async () =>
    (await api.list()).result.job_statuses.some(({ id }) => id === queued.id));

  await step("delete", async () => seen(await frank.delete(records(id))));
  await step("delete by name", async () => seen(await api.delete(records({ name: "opel", external_id: "" }))));
  await step("delete object", async () => seen(await api.delete(CARS)));

  const hurried = createClient({ ...options, endpointUri: `${process.env.SERVICE_LIMITED_URL}/api/v2` });
  await step("limited", async () => {
    const many = Array.from({ length: 8 }, () => hurried.jobstatuses.get(["custom_objects"]));
    return (await Promise.all(many)).map(seen).filter(({ status }) => status !== 200);
  });
}

story();
