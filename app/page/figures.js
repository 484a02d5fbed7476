// The arithmetic: similarities from vectors, quantiles from Prometheus histograms. Nothing here knows the page.

/** Cosines of all pairs of unit vectors, (n, width) to (n, n). */
export function similarities(vectors) {
  return vectors.map((one) => vectors.map((other) => one.reduce((sum, value, place) => sum + value * other[place], 0)));
}

/** `ours` less `theirs`, cell by cell. */
export function difference(ours, theirs) {
  return ours.map((row, i) => row.map((value, j) => value - theirs[i][j]));
}

export function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** What stands above the diagonal of a square matrix: each pair once. */
export function pairs(matrix) {
  return matrix.flatMap((row, i) => row.slice(i + 1));
}

/**
 * One cumulative histogram for each value of `label`, summed over all other labels.
 * `exposition` is Prometheus' text format; a histogram is a Map from upper bound to count, bounds ascending.
 */
export function histograms(exposition, metric, label) {
  const found = {};
  for (const line of exposition.split("\n")) {
    if (!line.startsWith(`${metric}_bucket{`)) continue;
    const end = line.lastIndexOf("}");
    const labels = Object.fromEntries([...line.slice(0, end).matchAll(/(\w+)="([^"]*)"/g)].map(([, name, value]) => [name, value]));
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    const histogram = (found[labels[label]] ??= new Map());
    histogram.set(bound, (histogram.get(bound) ?? 0) + Number(line.slice(end + 1)));
  }
  return found;
}

/** What came between two readings of a histogram; all of `now` if the service has started anew since `before`. */
export function since(before, now) {
  if (!before || before.get(Infinity) > now.get(Infinity)) return now;
  return new Map([...now].map(([bound, count]) => [bound, count - (before.get(bound) ?? 0)]));
}

/** The `share` quantile, linear within its bucket like PromQL's histogram_quantile; null without observations. */
export function quantile(histogram, share) {
  const rank = share * histogram.get(Infinity);
  if (!rank) return null;
  let [below, counted] = [0, 0];
  for (const [bound, count] of histogram) {
    if (count >= rank) return bound === Infinity ? below : below + ((bound - below) * (rank - counted)) / (count - counted);
    [below, counted] = [bound, count];
  }
  return below;
}
