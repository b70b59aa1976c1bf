// On the 503 page: asks until the panel is back, then shows the page that was wanted.
setInterval(async () => {
  try {
    const answer = await fetch(location.href, { method: "HEAD", redirect: "manual" });
    if (answer.status !== 503) location.reload();
  } catch {
    // Still away.
  }
}, 5000);
