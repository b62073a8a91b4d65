// A gRPC server that knows nothing of ipcd: the one of gRPC's interoperability tests.
//
// node interop_server.js PROTO ADDRESS
//
// Its first line is the port, 0 for a UNIX socket.
'use strict';

const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [, , proto, address] = process.argv;
const { interop } = grpc.loadPackageDefinition(loader.loadSync(proto, { arrays: true }));

const reply = (size) => ({ payload: { body: Buffer.alloc(size) } });
const failure = ({ code, message }) => ({ code, details: message });

// The metadata that is to come back, in the headers and in the trailers.
function echoed(call) {
  const [headers, trailers] = [new grpc.Metadata(), new grpc.Metadata()];
  call.metadata.get('x-grpc-test-echo-initial').forEach((value) => headers.add('x-grpc-test-echo-initial', value));
  const key = 'x-grpc-test-echo-trailing-bin';
  call.metadata.get(key).forEach((value) => trailers.add(key, value));
  call.sendMetadata(headers);
  return trailers;
}

const handlers = {
  nothing(call, answer) {
    answer(null, {}, echoed(call));
  },

  unary(call, answer) {
    const { status, replySizes } = call.request;
    if (status) {
      answer(failure(status));
      return;
    }
    answer(null, reply(replySizes.reduce((sum, size) => sum + size, 0)), echoed(call));
  },

  upload(call, answer) {
    let size = 0;
    call.on('data', ({ payload }) => {
      size += payload.body.length;
    });
    call.on('end', () => answer(null, { size }));
  },

  download(call) {
    call.request.replySizes.forEach((size) => call.write(reply(size)));
    call.end();
  },

  duplex(call) {
    const trailers = echoed(call);
    call.on('data', ({ status, replySizes }) => {
      if (status) {
        call.emit('error', failure(status));
        return;
      }
      replySizes.forEach((size) => call.write(reply(size)));
    });
    call.on('end', () => call.end(trailers));
  },
};

const server = new grpc.Server();
server.addService(interop.v1.Test.service, handlers);
server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(address.startsWith('unix:') ? 0 : port);
});
process.on('SIGTERM', () => {
  server.forceShutdown();
  process.exit(0);
});
