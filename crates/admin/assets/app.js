// What makes a page live. Without it all pages can be read.
"use strict";

const parts = document.querySelectorAll("[data-live]");
const state = document.querySelector("[data-live-state]");
const hold = document.querySelector("[data-live-pause]");
let source = null;
let held = false;
let waiting = null;
/** When something was heard last, and whether the connection is lost. */
let heard = new Date();
let lost = false;
let silence = 0;

/** The server says something at least every 15 s; a connection that is silent for so long is a dead one. */
const LONGEST_SILENCE = 40_000;
/** After a refusal, another try. */
const TRY_AGAIN = 5_000;
/** A form is sent once, however often its button is clicked. */
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
    // The time of day stands first, in five characters.
    text.textContent = clock.format(new Date(text.dataset.clock)) + text.textContent.slice(5);
  }
  for (const zone of root.querySelectorAll("[data-zone]")) {
    zone.textContent = new Intl.DateTimeFormat().resolvedOptions().timeZone;
  }
}

/** Says how live the page is: `on`, `held`, or `off` with the reason. */
function say(how, text) {
  if (!state) return;
  if (state.dataset.on !== how) state.dataset.on = how;
  if (state.textContent !== text) state.textContent = text;
}

/** The page is as it is now, as far as is known. */
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

/** What the page shows may be over: nobody shall take an old "All is well" for a new one. */
function disconnected() {
  lost = true;
  for (const part of parts) part.classList.add("stale");
  say("off", `not connected: what you see is from ${new Intl.DateTimeFormat(undefined, seconds).format(heard)}`);
}

/** Puts the new part in place of the old one, but keeps focus, selection and what is typed. */
function show(html) {
  const target = parts[0];
  const next = document.createElement("div");
  next.innerHTML = html;
  localTimes(next);
  globalThis.Idiomorph.morph(target, next.innerHTML, {
    morphStyle: "innerHTML",
    ignoreActiveValue: true,
    callbacks: {
      // Charts are drawn anew less often than the rest.
      beforeNodeMorphed: (old, now) => !(old.tagName === "FIGURE" && old.isEqualNode(now)),
      // What the reader has opened stays open.
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
    // A closed source was refused: signed out, there are too many live pages, or a proxy answers for Modelgate.
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

/** To the sign-in page, if nobody is signed in any more. Whether Modelgate answers otherwise. */
async function check() {
  try {
    const answer = await fetch("/help", { method: "HEAD", headers: { accept: "application/json" } });
    // Without a fragment, which would keep the page; and not a reload, which would send a form again.
    if (answer.status === 401) location.replace(location.pathname + location.search);
    return answer.ok;
  } catch {
    return false; // It is being restarted.
  }
}

/** After a refusal, another try in a while. */
async function retry() {
  if (await check()) say("off", "not live: too many pages are open");
  setTimeout(connect, TRY_AGAIN);
}

/** Copies the text of an element; false if the reader has to. */
async function copy(from) {
  try {
    await navigator.clipboard.writeText(from.textContent);
    return true;
  } catch {
    // Browsers have no clipboard for pages that came without TLS; what is selected can be copied all the same.
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

/** A second click would make a second key, or lose sight of the first one. */
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

// A browser has six connections for a host; pages that nobody sees need none.
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
addEventListener("pagehide", disconnect);
addEventListener("pageshow", (event) => {
  // The way back may lead to a page that is kept though its reader has signed out.
  if (event.persisted) check();
  connect();
});

localTimes(document);
// On a phone the navigation is a strip that is wider than the page.
document.querySelector(".side nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
copyButtons();
sendOnce();
connect();
