'use strict';
/* global __filename, __dirname */
// Runs PROGRAM.main.cjs, which lies beside this file (PROGRAM.cjs), with what V8 kept of compiling it
// (PROGRAM.main.cache, made by tools/code-cache.mjs for the Node.js of this installation). That halves what a command adds
// to Node's own start: parsing 1 MB takes 20 ms, loading the cache 4. A cache that is missing, or of
// another Node.js, costs only that.
const { readFileSync } = require('node:fs');
const { wrap } = require('node:module');
const { Script } = require('node:vm');

const filename = __filename.replace(/\.cjs$/, '.main.cjs');

function readCache() {
  try {
    return readFileSync(filename.replace(/\.cjs$/, '.cache'));
  } catch {
    return undefined;
  }
}

// The bundler writes ASCII only: one byte a character, nothing to decode.
const script = new Script(wrap(readFileSync(filename, 'latin1')), { filename, cachedData: readCache() });
exports.script = script;
script.runInThisContext().call(module.exports, exports, require, module, filename, __dirname);
