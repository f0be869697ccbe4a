// Before the first paint: what the switch was set to, so that nothing flashes. Without it the system decides.
try {
  const theme = localStorage.getItem('anneal-theme');
  if (theme === 'dark' || theme === 'light') document.documentElement.dataset.theme = theme;
} catch { /* storage is switched off */ }
