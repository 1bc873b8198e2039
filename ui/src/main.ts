import '@fontsource-variable/inter';
import '@fontsource-variable/jetbrains-mono';
import { mount } from 'svelte';
import App from './App.svelte';
import './app.css';
import { connect } from '$lib/backend';
import { i18n } from '$lib/i18n/index.svelte';
import { guardInputMethods } from '$lib/keys';

const target = document.getElementById('app');
if (!target) throw new Error('BUG: the page has no #app');

guardInputMethods(window);
await connect();
i18n.use(null);
mount(App, { target });
