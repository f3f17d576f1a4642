// Calls the edge as a browser does and prints one JSON object a line for each thing that happens.
//
// Usage: node client.mjs DESCRIPTORS EDGE API_KEY COMMAND [ARGUMENT]
//   DESCRIPTORS  file with a serialized google.protobuf.FileDescriptorSet
//   COMMAND      send TEXT | abort TEXT | deadline TEXT | models | get NAME

import { readFileSync } from "node:fs";
import { createFileRegistry, fromBinary, toJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { ConnectError, Code, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";

const [descriptors, edge, apiKey, command, argument] = process.argv.slice(2);
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)));
const transport = createGrpcWebTransport({
  baseUrl: edge,
  interceptors: [
    (next) => (request) => {
      request.header.set("authorization", `Bearer ${apiKey}`);
      return next(request);
    },
  ],
});
const client = (name) => createClient(registry.getService(name), transport);
const print = (value) => console.log(JSON.stringify(value));
const conversations = client("redoma.chat.v1.ConversationService");
const chat = client("redoma.chat.v1.ChatService");

async function send(text, options = {}, onEvent = () => {}) {
  const created = await conversations.createConversation({ parent: "tenants/-", conversation: {} });
  print({ conversation: created.conversation.name });
  const sampling = { maxOutputTokens: options.maxOutputTokens ?? 24, ignoreEos: options.ignoreEos ?? false };
  const request = { conversation: created.conversation.name, content: text, sampling };
  for await (const response of chat.sendMessage(request, options.call)) {
    print({ event: response.event.case });
    onEvent(response.event);
    if (response.event.case === "done") {
      const schema = registry.getMessage("redoma.chat.v1.AnswerDone");
      print({ done: toJson(schema, response.event.value, { registry }) });
    }
  }
}

const commands = {
  send: () => send(argument),
  abort: () => {
    const controller = new AbortController();
    return send(argument, { call: { signal: controller.signal }, ignoreEos: true, maxOutputTokens: 2000 }, (event) => {
      if (event.case === "delta") controller.abort();
    });
  },
  deadline: () => send(argument, { call: { timeoutMs: 1500 }, ignoreEos: true, maxOutputTokens: 4000 }),
  get: () => conversations.getConversation({ name: argument }),
};

try {
  await commands[command]();
  print({ code: "ok" });
} catch (error) {
  const failure = ConnectError.from(error);
  const details = failure.details.map((detail) => detail.type);
  print({ code: Code[failure.code], message: failure.rawMessage, details });
}
