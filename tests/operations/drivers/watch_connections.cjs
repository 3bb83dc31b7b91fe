// Preloaded into an agent: writes down where its processes connect to, and which names they look up.
'use strict';
const fs = require('node:fs');
const net = require('node:net');
const dns = require('node:dns');

const note = (what) => fs.appendFileSync(process.env.CONNECTIONS_FILE, `${what}\n`);

const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function (...given) {
  // net.connect hands over its normalized arguments as one array.
  const [first, second] = Array.isArray(given[0]) ? given[0] : given;
  const options = typeof first === 'object' && first !== null ? first : { port: first, host: second };
  note(options.path ? `unix ${options.path}` : `connect ${options.host ?? 'localhost'}:${options.port}`);
  return connect.apply(this, given);
};

const lookup = dns.lookup;
dns.lookup = function (name, ...rest) {
  note(`lookup ${name}`);
  return lookup.call(this, name, ...rest);
};
