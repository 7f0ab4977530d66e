// A child in TypeScript: it checks who asks, works once for each request, and proves its answer.
// CHILD_URI is what `agents peering` printed for this agent, PARENT_URI what it printed for the lead.
import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { Annotation, END, START, StateGraph } from "@langchain/langgraph";

type Peer = { name: string; relation: string; key: Buffer };
type Proof = { step: number; value: string };
type Request = {
  parent: string; challenge: string; depth: number; payload: string; proof: Proof; relation: string;
};
type Envelope = { payload: string; kind: "result" | "error"; step: number; proof: string };

const SUITE = "OCRA-1:HOTP-SHA256-0:QH64-T30S";
const sha256 = (data: Buffer) => createHash("sha256").update(data).digest();
const now = () => Math.floor(Date.now() / 30_000);

function peer(uri: string): Peer {
  const url = new URL(uri);
  const bits = [...url.searchParams.get("secret")!]
    .map((c) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".indexOf(c).toString(2).padStart(5, "0")).join("");
  const key = Buffer.from(bits.match(/.{8}/g)!.map((byte) => parseInt(byte, 2)));
  const name = decodeURIComponent(url.pathname).split(":").pop()!;
  return { name, relation: url.searchParams.get("relation") ?? "", key };
}

function answer(key: Buffer, step: number, ...fields: (string | Buffer)[]): string {
  const parts = [Buffer.from("pipelit-agents/v1\0")];
  for (const field of [fields[0], SUITE, ...fields.slice(1)]) {
    const data = Buffer.from(field as string);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(data.length);
    parts.push(length, data);
  }
  const time = Buffer.alloc(8);
  time.writeBigUInt64BE(BigInt(step));
  const question = Buffer.concat([sha256(Buffer.concat(parts)), Buffer.alloc(96)]);
  const input = Buffer.concat([Buffer.from(SUITE), Buffer.alloc(1), question, time]);
  return createHmac("sha256", key).update(input).digest("hex");
}

const me = peer(process.env.CHILD_URI!), lead = peer(process.env.PARENT_URI!);
const used = new Set<string>(); // A server of several processes keeps these in its database.

function admit(request: Request, challenge: Buffer, payload: Buffer): void {
  const { step, value } = request.proof;
  const right = answer(lead.key, step, "spawn-request", lead.relation, lead.name, me.name, challenge,
    String(request.depth), sha256(payload), request.relation, "");
  const proven = value.length === 64 && timingSafeEqual(Buffer.from(value), Buffer.from(right));
  const fresh = Math.abs(now() - step) <= 2 && !used.has(request.challenge);
  if (request.parent !== lead.name || request.relation !== me.relation || !proven || !fresh)
    throw new Error("this child doesn't work for this caller");
  used.add(request.challenge);
}

function work({ request }: { request: Request }): { envelope: Envelope } {
  const challenge = Buffer.from(request.challenge, "base64url");
  const given = Buffer.from(request.payload, "base64url");
  admit(request, challenge, given);
  const { text } = JSON.parse(given.toString());
  const payload = Buffer.from(JSON.stringify({ text, words: text.split(/\s+/).length }));
  const step = now();
  const proof = answer(me.key, step, "spawn-result", me.relation, me.name, lead.name, challenge,
    String(request.depth), sha256(given), "result", sha256(payload));
  return { envelope: { payload: payload.toString("base64url"), kind: "result", step, proof } };
}

const State = Annotation.Root({ request: Annotation<Request>, envelope: Annotation<Envelope> });
export const graph = new StateGraph({ stateSchema: State, output: Annotation.Root({ envelope: Annotation<Envelope> }) })
  .addNode("work", work).addEdge(START, "work").addEdge("work", END).compile();
