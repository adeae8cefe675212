// The server's answers; its errors as exceptions that name their option.

export class ApiError extends Error {
  constructor({ message, remedy = "", option = null }) {
    super(message);
    this.remedy = remedy;
    this.option = option;
  }
}

const ABSENT = {
  message: "The server does not answer.",
  remedy: "Start it again with nst-fast ui; nothing finished is lost.",
};

export async function call(method, path, body) {
  const form = body instanceof FormData,
    request = { method, headers: {} };
  if (body !== undefined) request.body = form ? body : JSON.stringify(body);
  if (body !== undefined && !form) request.headers["Content-Type"] = "application/json";
  const response = await fetch(`api/${path}`, request).catch(() => {
    throw new ApiError(ABSENT);
  });
  const json = response.headers.get("Content-Type")?.startsWith("application/json");
  const answer = json ? await response.json() : null;
  if (!response.ok) throw new ApiError(answer?.error ?? { message: `The server answers ${response.status}.` });
  return answer;
}

export const get = (path) => call("GET", path);
export const post = (path, body) => call("POST", path, body);

export function upload(file, name = file.name) {
  const form = new FormData();
  form.append("file", file, name);
  return post("uploads", form);
}

// Follow a run: `handlers` by the event's name; `lost` when the browser gives up. Returns what ends it.
export function follow(id, handlers, lost) {
  const source = new EventSource(`api/runs/${id}/events`);
  for (const [name, handler] of Object.entries(handlers)) {
    source.addEventListener(name, (event) => handler(JSON.parse(event.data)));
  }
  source.addEventListener("error", () => source.readyState === EventSource.CLOSED && lost());
  return () => source.close();
}
