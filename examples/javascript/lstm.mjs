// An LSTM with its backward pass by hand in plain JavaScript, judged over a pipe as docs/any-language.md says:
//
//     lstm-ref check "cmd:node examples/javascript/lstm.mjs"
//
// It needs Node.js and no packages. Arrays are flat; the rows of Wx, Wh and b are the gates i, f, g, o, one below the other.
// With --forget-carry it drops what comes back from step t+1 through the cell state, as a mistake to look at.

import { readSync, writeSync } from "node:fs";

const forgetCarry = process.argv.includes("--forget-carry");
const LAYOUT = { order: "ifgo", packed: true, joint: "split", names: { W_x: "Wx", W_h: "Wh", b: "b" } };

const sigmoid = (a) => 1 / (1 + Math.exp(-a));

/** All steps. What is stored has the precision `Real`, Float64Array or Float32Array; `tape` is what backward needs. */
function run({ x, h0, c0, Wx, Wh, b }, Real) {
  const [T, B, D] = x.shape, H = h0.shape[1];
  const tape = [], out = new Real(T * B * H);
  let h = h0.data, c = c0.data;
  for (let t = 0; t < T; t++) {
    const gates = new Real(B * 4 * H), cell = new Real(B * H), squashed = new Real(B * H), hidden = new Real(B * H);
    for (let n = 0; n < B; n++) {
      for (let row = 0; row < 4 * H; row++) {
        let a = b.data[row];
        for (let k = 0; k < D; k++) a += Wx.data[row * D + k] * x.data[(t * B + n) * D + k];
        for (let k = 0; k < H; k++) a += Wh.data[row * H + k] * h[n * H + k];
        gates[n * 4 * H + row] = row >= 2 * H && row < 3 * H ? Math.tanh(a) : sigmoid(a);
      }
      for (let j = 0; j < H; j++) {
        const [i, f, g, o] = [0, 1, 2, 3].map((gate) => gates[(n * 4 + gate) * H + j]);
        cell[n * H + j] = f * c[n * H + j] + i * g;
        squashed[n * H + j] = Math.tanh(cell[n * H + j]);
        hidden[n * H + j] = o * squashed[n * H + j];
      }
    }
    tape.push({ gates, squashed, hBefore: h, cBefore: c });
    out.set(hidden, t * B * H);
    [h, c] = [hidden, cell];
  }
  return { tape, h: { shape: [T, B, H], data: out }, c_T: { shape: [B, H], data: c } };
}

/** The gradients of Σ d_h·h + Σ d_c_T·c_T. */
function backward({ x, h0, c0, Wx, Wh, b, d_h, d_c_T }, Real) {
  const [T, B, D] = x.shape, H = h0.shape[1];
  const { tape } = run({ x, h0, c0, Wx, Wh, b }, Real);
  const [dx, dWx, dWh, db] = [x, Wx, Wh, b].map(({ shape, data }) => ({ shape, data: new Real(data.length) }));
  let dh = new Real(B * H), dc = Real.from(d_c_T.data);
  for (let t = T - 1; t >= 0; t--) {
    const { gates, squashed, hBefore, cBefore } = tape[t];
    const dhBefore = new Real(B * H), dcBefore = new Real(B * H), da = new Real(4 * H);
    for (let n = 0; n < B; n++) {
      for (let j = 0; j < H; j++) {
        const [i, f, g, o] = [0, 1, 2, 3].map((gate) => gates[(n * 4 + gate) * H + j]);
        const at = n * H + j, s = squashed[at];
        const flow = dh[at] + d_h.data[t * B * H + at];
        const carried = forgetCarry && t < T - 1 ? 0 : dc[at];
        const into = carried + flow * o * (1 - s * s);
        da[j] = into * g * i * (1 - i);
        da[H + j] = into * cBefore[at] * f * (1 - f);
        da[2 * H + j] = into * i * (1 - g * g);
        da[3 * H + j] = flow * s * o * (1 - o);
        dcBefore[at] = into * f;
      }
      for (let row = 0; row < 4 * H; row++) {
        db.data[row] += da[row];
        for (let k = 0; k < D; k++) {
          dWx.data[row * D + k] += da[row] * x.data[(t * B + n) * D + k];
          dx.data[(t * B + n) * D + k] += da[row] * Wx.data[row * D + k];
        }
        for (let k = 0; k < H; k++) {
          dWh.data[row * H + k] += da[row] * hBefore[n * H + k];
          dhBefore[n * H + k] += da[row] * Wh.data[row * H + k];
        }
      }
    }
    [dh, dc] = [dhBefore, dcBefore];
  }
  return { x: dx, h0: { shape: h0.shape, data: dh }, c0: { shape: c0.shape, data: dc }, Wx: dWx, Wh: dWh, b: db };
}

// The pipe: requests on stdin, replies on stdout. Typed arrays lie in memory as the machine has them: little-endian, as is due.

let unread = Buffer.alloc(0);
const chunk = Buffer.alloc(1 << 16);

/** Wait for more input; false at its end. */
function more() {
  const n = readSync(0, chunk, 0, chunk.length, null);
  unread = Buffer.concat([unread, chunk.subarray(0, n)]);
  return n > 0;
}

function take(n) {
  while (unread.length < n) if (!more()) process.exit(1);
  const taken = unread.subarray(0, n);
  unread = unread.subarray(n);
  return taken;
}

function line() {
  while (!unread.includes(10)) if (!more()) process.exit(0);
  return take(unread.indexOf(10) + 1).toString().trimEnd();
}

function write(buffer) {
  for (let done = 0; done < buffer.length; ) done += writeSync(1, buffer, done);
}

function request() {
  const [, version, call, dtype, count] = line().split(" ");
  const heads = Array.from({ length: Number(count) }, () => line().split(" "));
  const arrays = {};
  for (const [name, ...sizes] of heads) {
    const shape = sizes.map(Number);
    const bytes = take(8 * shape.reduce((p, n) => p * n, 1));
    arrays[name] = { shape, data: new Float64Array(new Uint8Array(bytes).buffer) };
  }
  return { version, call, arrays, Real: dtype === "float32" ? Float32Array : Float64Array };
}

function reply(arrays) {
  const heads = Object.entries(arrays).map(([name, { shape }]) => `${[name, ...shape].join(" ")}\n`);
  write(Buffer.from(`ok ${heads.length}\n${heads.join("")}`));
  for (const { data } of Object.values(arrays)) write(Buffer.from(Float64Array.from(data).buffer));
}

for (;;) {
  const { version, call, arrays, Real } = request();
  if (version !== "1") {
    write(Buffer.from(`error this program speaks version 1, not ${version}\n`));
  } else if (call === "hello") {
    write(Buffer.from(`hello ${JSON.stringify({ layout: LAYOUT })}\n`));
  } else if (call === "forward") {
    const { h, c_T } = run(arrays, Real);
    reply({ h, c_T });
  } else if (call === "vjp") {
    reply(backward(arrays, Real));
  } else {
    write(Buffer.from(`error there is no ${call} here\n`));
  }
}
