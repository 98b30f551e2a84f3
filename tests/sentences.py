"""English sentences on many topics, written for this project: some to calibrate on, and others to test with."""

CALIBRATION = tuple(
    """\
The ferry to the island leaves at seven in the morning and again just after noon.
Nobody told the new tenants that the boiler needs a firm kick on cold days.
Can you send me the slides before the meeting starts?
Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.
She tuned the old violin by ear and then played until the neighbours knocked.
Heavy rain is expected along the coast tonight, with gusts of up to ninety kilometres an hour.
I disagree.
The committee postponed its decision because two of the nine members were ill.
Our cat has learned to open the fridge, which is impressive and expensive.
To reset your password, follow the link that we have sent to your address.
The defender cleared the ball off the line in the last minute of extra time.
Add a pinch of salt to the egg whites before you beat them.
A prime number has exactly two divisors.
The museum's oldest painting shows a harbour that silted up four centuries ago.
My grandfather repaired clocks in a shop no wider than a corridor.
Exports of wheat fell for the third month in a row.
Please keep dogs on a lead between March and July, when birds nest on the ground.
What time is it in Nairobi right now?
The patient reported a dull pain behind the left knee after long walks.
Glaciers grind rock into a flour so fine that it turns lakes turquoise.
He bought three litres of milk and forgot the bread.
The function returns an empty list if the file holds no records.
Under the new law, landlords must announce repairs two weeks ahead.
Thunder rolled over the valley long before we saw any lightning.
You will need a screwdriver, four bolts and a great deal of patience.
The orchestra opened the season with a symphony that hardly anyone had heard before.
Octopuses can taste with their arms.
Two passengers missed the connecting flight to Lisbon and spent the night at the airport.
The bridge was closed to lorries after engineers found cracks in a pillar.
If the train is late again, I am going to buy a bicycle.
Her third novel is set in a lighthouse during the war.
Interest on the loan is due on the first working day of each quarter.
Stir the rice often, or it will stick to the bottom of the pan.
Voters in the northern districts turned out in greater numbers than ever.
I have never understood the rules of cricket, and I no longer try.
The battery lasts about eleven hours when the screen is dim.
Every spring the river floods the lower meadow and leaves a layer of rich mud behind.
The witness could not say whether the car was blue or green.
Yes, we are open on Sundays.
An earthquake of moderate strength shook the capital shortly before dawn; no one was hurt.
Children under six travel free if an adult comes along.
The painter mixed her own colours from soot, chalk and linseed oil.
Most of the company's servers run on electricity from two small dams.
He whistled as he swept the yard, always the same four notes.
Neutron stars are so dense that a spoonful would outweigh a mountain.
The recipe calls for buttermilk, but yoghurt thinned with water will do.
How long did it take you to learn Portuguese?
The goalkeeper, who had broken a finger in training, was replaced at half time.
A flock of starlings settled on the power line and left again as one.
Store the vaccine between two and eight degrees and do not freeze it.
The town council voted to plant two hundred lime trees along the main road.
It was the quietest birthday party that I had ever been to.
Compilers may reorder instructions as long as the visible result stays the same.
The hikers lost the path in the fog and followed a stream down to the road.
Her uncle keeps bees on the roof of a department store.
Shares of the airline dropped by six percent after the strike was announced.
Bring a torch; the cellar has no light.
The treaty was signed in a railway carriage.
Whales sing longer songs in winter than in summer.
I would rather walk than wait for the bus.
The dentist recommended a softer brush and less coffee.
After the harvest, the whole village dances in the square until midnight.
The kettle boils at a lower temperature up here because the air is thin.
Which of these two cameras takes better pictures in the dark?
The editor cut the article by half and improved it a lot.
Ants follow a trail of scent that the first of them has laid.
Three of the four engines were started without trouble; the last one smoked.
The choir rehearses every Thursday in a room above the bakery.
Sadly, the letter arrived a day after the deadline.
Molten glass glows orange and bends like toffee.
The judge reminded the jury that silence is no proof of guilt.
We planted garlic in October and dug it up in June.
The app crashes whenever I rotate the phone during a call.
A thick layer of dust covered the piano in the abandoned school.
Is the soup meant to be cold?
The delegation will visit a steel works, a vineyard and a school for nurses.
The desert cools quickly once the sun is down.
He apologised twice, first by telephone and then with flowers.
Wages in the building trade have risen faster than prices.
The sculptor works in ice, so nothing she makes survives the spring.
Turn left at the chapel and carry on until you see a red gate.
Insulin was first given to a patient more than a hundred years ago.
Our team lost five to nil, which flattered us.
The lake is deep enough for submarines, or so the fishermen say.
This version fixes a leak of memory in the parser.
The baker gets up at two and goes to bed when the schools open.
Can a landlord keep the deposit if the carpet is worn?
Comets grow tails only when they come close to the sun.
She passed the driving test at the fourth attempt.
The ceasefire held for nine days.
Wash the lentils, cover them with water and let them simmer for half an hour.
There is a hole in my left boot.
The archive holds letters, maps, and the diary of a ship's cook.
Mist hung over the fields until the sun was well above the trees.
The minister denied that taxes would go up after the election.
A good chess player sees three moves ahead; a great one sees the right move.
The lift has been out of order since Tuesday, and my flat is on the ninth floor.
Bats find their way by listening to echoes of their own calls.
Would you mind closing the window?
The violinist broke a string in the second movement and finished on three.
The contract ends automatically when the last instalment is paid.
Rust never sleeps, and neither did the night watchman.
The survey asked two thousand households what they throw away.
Snow leopards are shy, and few people have ever seen one in the wild.
I left my umbrella on the tram again.
The new hospital wing has room for forty beds and its own pharmacy.
The sorted keys are split evenly among the workers.
Dough rises faster in a warm kitchen.
The old mine was turned into a concert hall with remarkable acoustics.
Who won the race in the end?
The senator spoke for eleven hours without sitting down.
Olive trees can live for more than a thousand years.
My sister paints birds, mostly herons, on the lids of biscuit tins.
The runner collapsed a few metres short of the finish.
A leap year has one day more than the others.
The satellite sends back a picture of the whole planet every fifteen minutes.
They argued about the map while the petrol ran out.
The hotel offers breakfast from half past six, except on public holidays.
Salt lowers the freezing point of water.
He gave up sugar for a month and has not stopped talking about it.
The warehouse was empty except for a chair and a ringing telephone.
The jury awarded the prize to a film about a retired postman.
The query takes a minute because no index covers that column.
Our flight was diverted to Prague on account of fog.
A hedgehog has moved in under the garden shed.
Mortgage rates stayed where they were in August.
Press the green button and hold it for five seconds.
The professor answered every question with another question.
The tide comes in faster than a man can run here.
Tea was served in glasses, with a lump of sugar on the side.
The first edition of the dictionary left out a whole letter by mistake.
Do not mix bleach with vinegar.
The striker has signed for two more years.
Under a microscope, the wing of a butterfly looks like a tiled roof.
The plumber came at eight, looked at the pipe, and left without a word.
Renewable sources supplied nearly half of the country's electricity last year.
What is the difference between a moth and a butterfly?
The sailors had been at sea for ten weeks when the water went bad.
I dreamt that I had to sit my final exams in a language I do not speak.
The cathedral's tower leans, but only by the width of a hand.
The nurse wrote the dose on the back of her glove.
Slice the onions as thinly as you can.
The prosecutor dropped two of the charges.
A light wind moved the curtains.
The library lends out fishing rods as well as books.
Data is copied to a second site every night at three.
The violin section was too loud for the singer.
Gold does not rust, which is one reason why people have always wanted it.
They named the puppy after a famous astronomer.
The road through the pass is open from May to October.
My neighbour teaches yoga to people over eighty.
Unemployment fell, but so did the number of people looking for work.
The penguin carries the egg on its feet to keep it off the ice.
Is there a vegetarian dish on the menu?
The report blames poor training and worse luck.
The stage was lit by a single candle.
He sold the farm and opened a bookshop in the city.
The cable under the sea was damaged by an anchor.
Her handwriting is so small that she gets a whole letter onto a postcard.
The reaction gives off heat and a smell of bitter almonds.
A referee needs good eyes and a thick skin.
The shop will exchange any item within thirty days if you keep the receipt.
Spring came late, and the cherry trees flowered in the snow.
We ran out of paint with one wall to go.
The president's speech was interrupted three times by applause and once by a bird.
The lock opens with either of the two keys.
Bread and butter, please.
Volcanic ash made the fields fertile for generations.
The model was trained on recordings of forty speakers.
My phone fell into the pond, and a frog sat on it.
The council wants to ban cars from the old town.
Zebras have stripes that differ from animal to animal, like fingerprints.
It is cheaper to repair the roof now than to replace the ceiling later.
The guide spoke four languages and told the same joke in each.
The blood sample must reach the laboratory within two hours.
The second half was much better than the first.
No one has lived on that island since the well dried up.
The tailor took in the jacket at the waist.
Inflation is measured by the price of a basket of ordinary goods.
Where did you put the spare batteries?
The beekeeper moved slowly, as if under water.
Light takes about eight minutes to travel from the sun to the earth.
The passengers were given blankets and soup.
The bill passed by a single vote.
Roast the peppers until their skins turn black, then peel them under cold water.
Please do not feed the ducks.
A thread that waits for a lock held by itself will wait for ever.
The portrait's eyes seem to follow you around the room.
Grandmother kept buttons in a jar and sorted them when she was worried.
The expedition turned back two hundred metres below the summit.
The price includes the flight, but neither meals nor insurance.
A gecko can walk across the ceiling because its toes are covered with tiny hairs.
The drummer is deaf in one ear.
The factory made bicycles before the war and aeroplanes during it.
He is the kind of man who irons his socks.
The harbour master closed the port because of ice.
The symptoms began with a fever and a stiff neck.
You can pay by card, in cash, or with a song.
The fire was out before the engine arrived.
An atom is mostly empty space.
Her lecture on the history of salt was surprisingly gripping.
The dam holds enough water to supply the city for two dry years.
I forgot what I was going to say.
The treaty bans mines that cannot be switched off from afar.
The cook tasted the sauce, frowned, and reached for a lemon.
In the last century, the glacier has shrunk by a third.
The kitchen smelled of cinnamon and burnt sugar.
Swallows return to the same barn year after year.
The mayor cut the ribbon with garden shears, since the scissors were blunt.
Each message is encrypted before it leaves the device.
The tenor had a cold, so the understudy sang.
We spent the afternoon looking for the tortoise.
Trade between the two countries has doubled in a decade.
Can this shirt be washed at sixty degrees?
The wolf was seen near the motorway, thin but healthy.
The carpenter measured twice and still cut the board too short.
The exam lasts three hours, and no calculators are allowed.
A rainbow stood over the harbour for almost half an hour.
The insurance does not cover damage caused by squirrels.
He crossed the ocean alone in a boat that he had built himself.
The radio was playing an old tango.
Most accidents happen at home.
The server answers with an error if the token has expired.
The village has one shop, two churches and no policeman.
Boil the syrup until a drop of it forms a soft ball in cold water.
Coral reefs shelter a quarter of all fish in the sea.
The landlady counted the spoons after every party.
The captain was sent off for arguing.
What a lovely surprise!
The excavation brought to light a mosaic of a dog and the words that warn of it.
The central bank sold foreign currency in order to support its own.
He learned to cook from his father and to eat from his uncle.
Antibiotics do not help against viruses.
The lorry was carrying oranges, which rolled all the way down to the river.
The plot of the film is thin, but the landscapes are splendid.
The ice on the pond is not safe yet.
The new timetable comes into force on the second Sunday in December.
Her parents met in a queue for potatoes.
A crow dropped the nut in front of a car and waited for the wheels.
The court ruled that the recipe was not protected.
They reached an agreement shortly before midnight.
Our printer works only when it is being watched.
The well is forty metres deep, and the water is as cold as ice.
Sleep is when the brain sorts out the day.
The auction raised more money than the school had hoped for, and the piano went for a song.
A parcel for the second floor has been lying in the hall since Monday.
Quartz watches keep time by the trembling of a crystal.
If the pressure drops below two bars, the valve closes by itself and an alarm sounds.
Her plan was simple, bold and illegal.
The guests clapped when the cake, which had four storeys, was carried in.
Are these mushrooms safe to eat?
The sprinter was born in a village that has no level ground.
Half an hour later, the queue had reached the corner of the street.
The translation keeps the rhymes but loses the jokes.
Rain again.
The chemist weighed the powder, wrote down the number and washed her hands before she opened the next jar.
""".splitlines()
)

TEST = tuple(
    """\
The tram was so full that I could not lift my arm to look at my watch.
Magnets lose their strength when they are heated.
Has anyone seen the key to the garden gate?
The actress refused the award and sent a goat in her place.
Sales of electric bicycles rose by a fifth in the first half of the year.
Beat the butter and the sugar until the mixture is pale.
The river is home to otters again after an absence of sixty years.
Her knee was operated on by the same surgeon who had treated her brother.
The programme prints a warning and carries on.
It has not rained since Easter.
The prime minister flew home early because of the floods.
A watched pot never boils.
The midfielder scored from a corner with the last touch of the game.
The attic was full of newspapers tied up with string.
Mercury is the smallest planet and has no moon.
We would like a table for five by the window, if there is one.
The accused had left the country before the trial began.
Old bricks were sorted by colour and used for the garden wall.
The bus driver waited for the old man with the two shopping bags.
Owls fly without a sound.
Why does bread go stale faster in the fridge?
The choir sang in the stairwell because the echo was so beautiful.
The pump has to be primed with water before it is switched on.
They grow tomatoes on the balcony and basil on the sill.
The merger will cost about four hundred jobs, most of them in the head office.
He speaks to his plants in Italian.
The avalanche blocked the only road into the valley for three days.
A new vaccine against malaria is being tested in four countries.
Thank you for the book; I finished it in one night.
The index of the array starts at zero.
The portrait was sold to a collector who wished to remain anonymous.
There were nine of us and eight chairs.
The farmer drove his sheep across the motorway bridge at dawn.
Cut along the dotted line and fold the flap inwards.
The opposition called the budget a fairy tale.
Camels store fat, not water, in their humps.
The alarm clock had stopped at twenty past four.
Passengers for Vienna must change at the next station.
She swims in the lake every morning, even when there is ice at the edge.
Do you take milk in your coffee?
The telescope's mirror is made up of eighteen pieces.
The verdict surprised everyone but the defendant.
Leave the dough to rest overnight in a cool place.
The castle has been a prison, a school and a hospital.
Cheaper oil pulled down the cost of transport.
My brother collects banknotes of countries that no longer exist.
The second violinist turned two pages at once.
The glass cracked because it was cooled too quickly.
Nurses at the clinic are asking for shorter shifts.
The file is locked by another process.
Storks nest on the chimney of the old brewery.
The champion retired after a career of nineteen years and three hip operations.
I can hear the neighbours sneeze.
The border was drawn with a ruler by people who had never been there.
Rinse the spinach twice, since it is often sandy.
Lightning struck the oak, and it burned from the inside.
Is it far to the nearest chemist's?
The grant pays for two students and a freezer.
The elephants walked in a line, each holding the tail of the one before.
Rents in the capital have doubled since the new station was opened.
The clown was not funny, but the children loved his shoes.
Steel is an alloy of iron and a little carbon.
The editor rejected the poem and kept the envelope for its stamp.
A burst pipe left the whole street without water.
The trainer put on two forwards, and the game turned around.
You may bring one guest.
The volcano had been silent for so long that a town was built in its crater.
The witness was shown a dozen photographs.
The gardener pruned the roses to the third bud.
Her first job was selling ice cream outside the stadium.
The update has to be installed twice for reasons that nobody can explain.
Sugar beet is harvested in the autumn, when the fields are wet.
The monks brew a dark beer and sell it only at the gate.
His temperature went down during the night.
The exhibition shows toys that were made in prison.
The parliament of the island meets in the open air.
Sharks were swimming in the sea before there were trees on land.
We took the wrong exit and ended up in another country.
What would you do with a million dollars?
The treaty obliges both sides to share the water of the river.
The piano was hoisted through the window with ropes.
Bake the fish in foil with fennel and a slice of orange.
The signal is too weak inside the tunnel.
He has been writing the same novel for thirty years.
The toddler fed her peas to the dog, one after the other.
The bank froze the account after an unusual payment.
An eclipse of the sun can be seen from the same spot only every few centuries.
The boots are waterproof, but they are not warm.
The cyclists rode into a wall of wind on the plain.
Please wipe your feet.
The mine was closed when the price of copper collapsed.
The conductor raised his baton, and a telephone rang.
A hive can hold fifty thousand bees and one queen.
The ship's log ends in the middle of a sentence.
The physician advised him to walk for an hour a day.
The scooter was found in the canal with its lights still on.
Half of the class had the flu.
The search returns results sorted by distance.
Mushrooms shot up everywhere after the warm rain.
The ambassador was called back for talks.
The soup needs more pepper and less enthusiasm.
The roof of the stadium can be closed in twelve minutes.
Which platform does the night train leave from?
He can name all the rivers of Asia but not his own street.
The old stove heats the whole house.
Workers in the port ended their strike after the firm raised wages by four percent.
The fox looked at us for a while and trotted off.
Plaster sets too fast if the water is warm.
The critics hated the play, and it ran for nine years.
The boundary between the two gardens has been in dispute since 1962.
A drop of ink is enough to colour the whole glass.
The coach of the women's team has resigned.
The moon pulls at the sea and makes the tides.
Our grandmother can beat us all at table tennis.
Luggage left unattended will be removed.
The senate asked for a second opinion on the safety of the reactor.
The pigeon carried the message sixty miles through the storm.
Without a licence, the software stops after thirty days.
The wedding was moved indoors on account of the wasps.
Peel, core and quarter the apples.
Blood tests showed that she was short of iron.
Nothing grows under the walnut tree.
The hostel is clean, cheap and next to a nightclub.
The price of coffee on the world market is at its highest for a decade.
A young seal was lying on the beach, waiting for the tide.
I think that we have met before.
The clockmaker's daughter became an astronaut.
They painted the fence green, then blue, and finally took it down.
""".splitlines()
)

# Written after the methods that are tested with them.
FRESH = tuple(
    """\
The beekeeper lifts each frame slowly so that nothing is startled.
A parcel left on the doorstep in the rain is rarely worth opening.
Our train stood outside the station for so long that people began to share their sandwiches.
Could you tell the caretaker that the light on the stairs flickers?
Basalt cools into columns with six sides, or sometimes five.
The referee stopped the match because a dog would not leave the pitch.
Store the batteries in a dry place, away from metal and from children.
Her first novel sold four hundred copies, most of them to her cousins.
The bridge is closed to lorries until the cracked bearing has been replaced.
Nobody had expected the quiet candidate to win by such a margin.
Warm the milk, stir in the yeast and wait until it foams.
In winter the reindeer dig through the snow with their hooves.
The invoice was paid twice, and it took a month to get the money back.
My sister paints boats, but only those that no longer float.
Frost split the pipe behind the kitchen wall.
An octopus tastes with its arms.
Please write legibly; two forms had to be returned last week.
The museum lends wheelchairs and folding stools free of charge.
He whistles the same three notes whenever a test fails.
The vaccine has to be kept colder than any ordinary freezer allows.
After the second bend, the path follows an old railway line.
The strike ended when both sides agreed to an extra week of holiday.
Is there a pharmacy that stays open after midnight?
The tenor lost his voice an hour before the curtain rose.
Two of the sensors disagree, and the third one has been silent since March.
Sand from the desert is too round to make good concrete.
They named the kitten after the street on which they found it.
A court ruled that the recipe of a sauce can't be owned.
The tide turns at ten, so be back at the jetty by half past nine.
Rents in the old harbour have doubled since the tram was built.
She keeps a spare key under a tortoise made of stone.
The printer works again after somebody removed a biscuit from it.
Low clouds hid the summit all week, and we saw it only from the plane.
The lecture on medieval bread was better attended than anyone had hoped.
Never lift the lid while the rice is cooking.
The youngest player on the team still has to be in bed by eight.
A solar eclipse frightened the hens, who went to roost at noon.
The ministry bought four thousand desks and forgot the chairs.
I prefer the blue one.
Some frogs survive being frozen, with ice between their cells.
The choir master tapped the stand, and even the pigeons fell silent.
Check that the cable is plugged in before you call us.
A comet last seen by their great-grandparents returned on Sunday.
The cheese is turned by hand every day for half a year.
Someone has drawn a moustache on the portrait of the founder.
Interest rates rose for the fifth time, and house prices hardly moved.
The lighthouse was automated in spring; its last keeper teaches sailing now.
What became of the bakery that used to be next to the cinema?""".splitlines()
)
