// Holds the expressions of the Settings tab against texts, in the dialect of the browser.
//
// Standard input: {name: {source, accept: [...], reject: [...], hostile: [...]}}. Hostile texts are long and match
// almost: what is measured is that twice the length costs about twice the time. Prints what is wrong, one to a line.

const LIMIT_MILLISECONDS = 1000;

const input = [];
process.stdin.on('data', (chunk) => input.push(chunk));
process.stdin.on('end', () => {
  const settings = JSON.parse(Buffer.concat(input).toString());
  let wrong = 0;
  const report = (text) => {
    console.log(text);
    wrong += 1;
  };
  for (const [name, { source, accept, reject, hostile }] of Object.entries(settings)) {
    const expression = new RegExp(source);
    for (const text of accept) {
      if (!expression.test(text)) report(`${name}: refuses ${JSON.stringify(text)}`);
    }
    for (const text of reject) {
      if (expression.test(text)) report(`${name}: takes ${JSON.stringify(text)}`);
    }
    for (const text of hostile) {
      const started = process.hrtime.bigint();
      expression.test(text);
      const spent = Number(process.hrtime.bigint() - started) / 1e6;
      if (spent > LIMIT_MILLISECONDS) {
        report(`${name}: ${Math.round(spent)} ms for ${text.length} characters, ${JSON.stringify(text.slice(0, 60))}...`);
      }
    }
  }
  process.exitCode = wrong === 0 ? 0 : 1;
});
