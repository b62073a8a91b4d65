// gRPC's interoperability tests against a server at ADDRESS, by @grpc/grpc-js; what came out, as one line of JSON.
//
// node gateway_client.js PROTO ADDRESS
'use strict';

const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [, , proto, address] = process.argv;
const { interop } = grpc.loadPackageDefinition(loader.loadSync(proto));
const client = new interop.v1.Test(address, grpc.credentials.createInsecure());
const [uploaded, downloaded] = [[27182, 8, 1828, 45904], [31415, 9, 2653, 58979]];

const request = (size, replySizes = [], status = undefined) => ({ payload: { body: Buffer.alloc(size) }, replySizes, status });
const soon = () => ({ deadline: Date.now() + 20000 });
const sizeOf = (reply) => reply.payload.body.length;

// A call that takes a callback: its answer, or its error with `failed`; the headers and trailers beside it.
function ended(begin) {
  return new Promise((resolve) => {
    const result = {};
    const call = begin((error, answer) => Object.assign(result, { error, answer }));
    call.on('metadata', (headers) => Object.assign(result, { headers }));
    call.on('status', (status) => resolve({ ...result, trailers: status.metadata }));
  });
}

// All replies of a call that gives a stream.
function gathered(call) {
  return new Promise((resolve, reject) => {
    const sizes = [];
    call.on('data', (reply) => sizes.push(sizeOf(reply)));
    call.on('error', reject);
    call.on('end', () => resolve(sizes));
  });
}

async function main() {
  const found = {};
  found.unary = sizeOf((await ended((done) => client.unary(request(271828, [314159]), soon(), done))).answer);
  found.upload = (
    await ended((done) => {
      const call = client.upload(soon(), done);
      uploaded.forEach((size) => call.write(request(size)));
      call.end();
      return call;
    })
  ).answer.size;
  found.download = await gathered(client.download(request(0, downloaded), soon()));

  // Each request waits for the reply to the one before.
  const duplex = client.duplex(soon());
  let next = 0;
  const ask = () => (next < 4 ? duplex.write(request(uploaded[next], [downloaded[next++]])) : duplex.end());
  duplex.on('data', ask);
  ask();
  found.duplex = await gathered(duplex);

  const metadata = new grpc.Metadata();
  metadata.set('x-grpc-test-echo-initial', 'test_initial_metadata_value');
  metadata.set('x-grpc-test-echo-trailing-bin', Buffer.from('ababab', 'hex'));
  const echo = await ended((done) => client.unary(request(1, [1]), metadata, soon(), done));
  found.metadata = [
    echo.headers.get('x-grpc-test-echo-initial')[0],
    echo.trailers.get('x-grpc-test-echo-trailing-bin')[0].toString('hex'),
  ];

  const status = { code: 2, message: 'test status message' };
  const { error, trailers } = await ended((done) => client.unary(request(0, [], status), soon(), done));
  found.status = [error.code, error.details, trailers.get('grpc-status-details-bin')[0].toString('hex')];

  // Nothing ends this one but its deadline, and the next but its cancellation.
  found.deadline = (await ended((done) => client.upload({ deadline: Date.now() + 300 }, done))).error.code;
  found.cancelled = (
    await ended((done) => {
      const call = client.upload(soon(), done);
      call.write(request(10));
      setImmediate(() => call.cancel());
      return call;
    })
  ).error.code;

  const call = (path) => (done) =>
    client.makeUnaryRequest(path, (data) => data, (data) => data, Buffer.alloc(0), new grpc.Metadata(), soon(), done);
  found.missing = (await ended(call('/interop.v1.Test/Missing'))).error.code;
  found.absent = (await ended(call('/interop.v1.Absent/Missing'))).error.code;
  console.log(JSON.stringify(found));
  client.close();
}

main();
