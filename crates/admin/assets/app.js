// Keeps pages live. Pages can be read without it.
"use strict";

const parts = document.querySelectorAll("[data-live]");
const state = document.querySelector("[data-live-state]");
const hold = document.querySelector("[data-live-pause]");
let source = null;
let held = false;
let waiting = null;
/** When the last event arrived, and whether the connection is lost. */
let heard = new Date();
let lost = false;
let silence = 0;

/** The server sends an event at least every 15 s; after this silence a connection counts as dead. In ms. */
const LONGEST_SILENCE = 40_000;
/** The pause before another attempt after a refusal, in ms. */
const TRY_AGAIN = 5_000;
/** For this time, in ms, a form is sent only once, however often its button is clicked. */
const SENT_ONCE = 10_000;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const seconds = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };

/** Writes times in the reader's own time zone. */
function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const options = time.hasAttribute("data-moment")
      ? { ...seconds, fractionalSecondDigits: 3 }
      : at.toDateString() === new Date().toDateString()
        ? seconds
        : { dateStyle: "medium", timeStyle: "short", hourCycle: "h23" };
    time.textContent = new Intl.DateTimeFormat(undefined, options).format(at);
    time.title = time.dateTime;
  }
  for (const text of root.querySelectorAll("[data-clock]")) {
    // The first five characters are the time of day.
    text.textContent = clock.format(new Date(text.dataset.clock)) + text.textContent.slice(5);
  }
  for (const zone of root.querySelectorAll("[data-zone]")) {
    zone.textContent = new Intl.DateTimeFormat().resolvedOptions().timeZone;
  }
}

/** Shows the state of the connection: `on`, `held`, or `off` with the reason. */
function say(how, text) {
  if (!state) return;
  if (state.dataset.on !== how) state.dataset.on = how;
  if (state.textContent !== text) state.textContent = text;
}

/** Marks the page as up to date. */
function connected() {
  heard = new Date();
  lost = false;
  for (const part of parts) part.classList.remove("stale");
  say(held ? "held" : "on", held ? "held" : "live");
  clearTimeout(silence);
  silence = setTimeout(() => {
    disconnected();
    disconnect();
    connect();
  }, LONGEST_SILENCE);
}

/** Marks the page as outdated, so that nobody takes an old "All is well" for a current one. */
function disconnected() {
  lost = true;
  for (const part of parts) part.classList.add("stale");
  say("off", `not connected: what you see is from ${new Intl.DateTimeFormat(undefined, seconds).format(heard)}`);
}

/** Replaces the live part, but keeps focus, selection and typed text. */
function show(html) {
  const target = parts[0];
  const next = document.createElement("div");
  next.innerHTML = html;
  localTimes(next);
  globalThis.Idiomorph.morph(target, next.innerHTML, {
    morphStyle: "innerHTML",
    ignoreActiveValue: true,
    callbacks: {
      // Charts change less often than the rest.
      beforeNodeMorphed: (old, now) => !(old.tagName === "FIGURE" && old.isEqualNode(now)),
      // Details that the reader has opened stay open.
      beforeAttributeUpdated: (name, node) => !(node.tagName === "DETAILS" && name === "open"),
    },
  });
}

function connect() {
  if (source || document.hidden || parts.length === 0) return;
  const page = location.pathname + location.search;
  source = new EventSource("/events?page=" + encodeURIComponent(page));
  source.addEventListener("open", connected);
  source.addEventListener("alive", connected);
  source.addEventListener("live", (event) => {
    connected();
    const html = JSON.parse(event.data);
    if (held) waiting = html;
    else show(html);
  });
  source.addEventListener("error", () => {
    disconnected();
    // A closed source means a refusal: signed out, too many live pages, or a proxy that answers in Modelgate's place.
    if (source && source.readyState === EventSource.CLOSED) {
      disconnect();
      retry();
    }
  });
}

function disconnect() {
  clearTimeout(silence);
  if (source) source.close();
  source = null;
}

/** Loads the page again if the session has ended, which leads to the sign-in page. Returns whether Modelgate answers. */
async function check() {
  try {
    const answer = await fetch("/help", { method: "HEAD", headers: { accept: "application/json" } });
    // Without the fragment, with which the browser would not load the page; and not by a reload, which would send a form again.
    if (answer.status === 401) location.replace(location.pathname + location.search);
    return answer.ok;
  } catch {
    return false; // It is being restarted.
  }
}

/** Tries again some time after a refusal. */
async function retry() {
  if (await check()) say("off", "not live: too many pages are open");
  setTimeout(connect, TRY_AGAIN);
}

/** Copies the text of an element; false if the reader must copy it. */
async function copy(from) {
  try {
    await navigator.clipboard.writeText(from.textContent);
    return true;
  } catch {
    // On pages without TLS browsers offer no clipboard API, but selected text can still be copied.
    getSelection().selectAllChildren(from);
    return document.execCommand("copy");
  }
}

function copyButtons() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    const label = button.textContent;
    button.hidden = false;
    button.addEventListener("click", async () => {
      const done = await copy(document.getElementById(button.dataset.copy));
      button.textContent = done ? "Copied" : "Selected: press Ctrl+C";
      setTimeout(() => { button.textContent = label; }, 1500);
    });
  }
}

/** Prevents a second click, which would create a second key or hide the first one. */
function sendOnce() {
  const sent = new WeakSet();
  document.addEventListener("submit", (event) => {
    const form = event.target;
    // Not `form.method`: a form may have a field of that name.
    if (form.getAttribute("method") !== "post") return;
    if (sent.has(form)) return event.preventDefault();
    sent.add(form);
    setTimeout(() => sent.delete(form), SENT_ONCE);
  });
}

if (hold) {
  hold.hidden = false;
  hold.addEventListener("click", () => {
    held = !held;
    hold.textContent = held ? "Go on" : "Hold still";
    if (!lost) say(held ? "held" : "on", held ? "held" : "live");
    if (!held && waiting) {
      show(waiting);
      waiting = null;
    }
  });
}

// A browser has six connections per host, so hidden pages close theirs.
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
addEventListener("pagehide", disconnect);
addEventListener("pageshow", (event) => {
  // "Back" may show a cached page although its reader has signed out.
  if (event.persisted) check();
  connect();
});

localTimes(document);
// On a phone the navigation is a strip that is wider than the page, so it is scrolled to the current entry.
document.querySelector(".side nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
copyButtons();
sendOnce();
connect();
