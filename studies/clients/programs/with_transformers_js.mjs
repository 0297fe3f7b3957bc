// Copyright 2026 The bert-pooled-mlm authors
// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { AutoModel, AutoTokenizer, env, pipeline } from "@huggingface/transformers";

const asked = JSON.parse(readFileSync(process.argv[2], "utf-8"));
env.allowRemoteModels = false;
for (const [path, call] of asked.runs) {
  try {
    env.localModelPath = dirname(path);
    const folder = basename(path), texts = asked.texts, options = { dtype: "fp32" };
    const tokenizer = await AutoTokenizer.from_pretrained(folder);
    const vectors = (await eval(`(async () => ${call})()`)).tolist();
    console.log(JSON.stringify({ vectors }));
  } catch (error) {
    console.error(error);
    console.log(JSON.stringify({ error: `${error.name}: ${error.message}` }));
  }
}
