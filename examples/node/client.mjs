// A client of kshot from its .proto file alone.
//
//     const client = connect();
//     const { adapted_model } = await client.call("Adapt", { model: "drawings", support_set });
//
// Requests and answers are the messages of proto/kshot/v1/adaptation.proto with its field names.
// KSHOT_SERVER, KSHOT_TLS, KSHOT_CA, KSHOT_API_KEY and KSHOT_API_KEY_FILE mean what they mean to
// the other clients. With TLS, name the server by its name: Node.js warns of addresses.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const OPTIONS = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };
const PROTO = fileURLToPath(new URL("../../proto", import.meta.url));
const wire = protoLoader.loadSync("kshot/v1/adaptation.proto", { ...OPTIONS, includeDirs: [PROTO] });
const details = protoLoader.loadSync(
  fileURLToPath(new URL("details.proto", import.meta.url)),
  OPTIONS,
);

/** An answer that is an error: `code` (INVALID_ARGUMENT, …), `reason` and decoded `details`. */
export class CallError extends Error {
  constructor(error) {
    super(error.details || error.message, { cause: error });
    this.name = "CallError";
    this.code = grpc.status[error.code];
    this.requestId = error.metadata?.get("x-kshot-request-id")[0];
    this.details = detailsOf(error.metadata?.get("grpc-status-details-bin")[0]);
    this.reason = this.details.find((each) => each.type === "google.rpc.ErrorInfo")?.reason;
  }
}

/** Return a client; each of its calls ends within `deadlineSeconds`. */
export function connect({ address, deadlineSeconds = 60, environment = process.env } = {}) {
  if (!(deadlineSeconds >= 0))
    throw new Error(`expected a deadline of 0 or more seconds, got ${deadlineSeconds}`);
  const target = address ?? environment.KSHOT_SERVER ?? "127.0.0.1:50051";
  const secure = environment.KSHOT_CA || ["1", "true", "yes", "on"].includes(environment.KSHOT_TLS);
  const key = keyOf(environment);
  if (key && !secure && !isLoopback(target))
    throw new Error("a key goes over TLS or to this machine alone; set KSHOT_TLS=1 or KSHOT_CA");
  const roots = environment.KSHOT_CA ? readFileSync(environment.KSHOT_CA) : null;
  const credentials = secure
    ? grpc.credentials.createSsl(roots)
    : grpc.credentials.createInsecure();
  const service = grpc.loadPackageDefinition(wire).kshot.v1.AdaptationService;
  const stub = new service(target, credentials, { "grpc.max_receive_message_length": -1 });

  return {
    /** Call a method that answers once. */
    call(method, request) {
      const metadata = new grpc.Metadata();
      if (key) metadata.set("authorization", `Bearer ${key}`);
      const deadline = Date.now() + 1000 * deadlineSeconds;
      return new Promise((resolve, reject) => {
        stub[method](request, metadata, { deadline }, (error, answer) =>
          error ? reject(new CallError(error)) : resolve(answer),
        );
      });
    },
    close: () => stub.close(),
  };
}

function keyOf(environment) {
  if (environment.KSHOT_API_KEY) return environment.KSHOT_API_KEY;
  const file = environment.KSHOT_API_KEY_FILE;
  return file ? readFileSync(file, "utf8").trim() : undefined;
}

function isLoopback(target) {
  return /^(localhost|127(\.\d+){3}|\[::1\]):\d+$|^unix:/.test(target);
}

/** Return the details of a google.rpc.Status: its messages, each with its `type`. */
function detailsOf(content) {
  if (content === undefined) return [];
  const { details: packed } = details["google.rpc.Status"].deserialize(content);
  return packed.map((any) => {
    const type = any.type_url.split("/").at(-1);
    const message = details[type];
    return { type, ...(message ? message.deserialize(any.value) : { value: any.value }) };
  });
}
