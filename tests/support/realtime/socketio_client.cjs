// Clients of socket.io-client that are led line by line: commands come in as JSON on standard input, whatever happens goes out as JSON.
const readline = require("node:readline");
const { io } = require("socket.io-client");

const sockets = new Map();

function open(client, url, transport) {
  const say = (line) => process.stdout.write(JSON.stringify({ client, ...line }) + "\n");
  // Each has a connection of its own.
  const options = { forceNew: true, transports: [transport], reconnectionDelay: 50, reconnectionDelayMax: 200 };
  const socket = io(url, options);
  socket.on("connect", () => say({ state: "connect", id: socket.id, transport: socket.io.engine.transport.name }));
  socket.on("disconnect", (reason) => say({ state: "disconnect", reason }));
  socket.onAny((name, ...args) => say({ event: name, args }));
  sockets.set(client, { socket, say });
}

function emit(client, name, args, ack) {
  const { socket, say } = sockets.get(client);
  if (ack === null) socket.emit(name, ...args);
  else socket.emit(name, ...args, (answer) => say({ ack, answer }));
}

function close(client) {
  sockets.get(client).socket.disconnect();
  sockets.delete(client);
}

const commands = { open, emit, close };
readline
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    const [command, ...rest] = JSON.parse(line);
    commands[command](...rest);
  })
  .on("close", () => process.exit());
