// A socket.io-client that is led line by line: commands come in as JSON on standard input, whatever happens goes out as JSON.
const readline = require("node:readline");
const { io } = require("socket.io-client");

const [url, transport] = process.argv.slice(2);
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const socket = io(url, { transports: [transport], reconnectionDelay: 50, reconnectionDelayMax: 200 });

socket.on("connect", () => say({ state: "connect", id: socket.id, transport: socket.io.engine.transport.name }));
socket.on("disconnect", (reason) => say({ state: "disconnect", reason }));
socket.onAny((name, ...args) => say({ event: name, args }));
readline
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    const { name, args, ack } = JSON.parse(line);
    if (ack === null) socket.emit(name, ...args);
    else socket.emit(name, ...args, (answer) => say({ ack, answer }));
  })
  .on("close", () => socket.disconnect());
